"""What does gpupeak depend on, and under which licences? Writes docs/dependencies.md, in both languages.

    python tests/dependencies.py

Licences are those that the packages state themselves.
"""

# ruff: noqa: RUF001 - Chinese punctuation

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/dependencies.md"
OTHER_PYTHONS = {
    "async-timeout": "Apache-2.0",
    "exceptiongroup": "MIT",
    "tomli": "MIT",
}
"""Needed on Python 3.10 only, each with its licence."""
_HEAD = """\
# Dependencies and their licences

Made by `python tests/dependencies.py` from what the packages of `make setup` state of themselves; the exact versions
are those of [constraints.txt](../constraints.txt). gpupeak ships none of them, and `pip install .` installs those of
the first table only; what the extra `report` asks for is among them. The extra `gpu-cuda12` takes the packages for
CUDA 12 instead of those for 13, under the same licences, but cuda-bindings under NVIDIA's own terms. The wheel of av
holds FFmpeg and codecs besides, each under a licence of its own: LGPL-2.1-or-later, and of x264 and x265
GPL-2.0-or-later.
"""
_HEAD_ZH = """\
# 依赖及其许可证

由 `python tests/dependencies.py` 根据 `make setup` 所装各包自己的声明生成；确切版本见
[constraints.txt](../constraints.txt)。gpupeak 不附带其中任何一个，`pip install .` 只安装第一张表中的包，附加项
`report` 所需的也在其中。附加项 `gpu-cuda12` 以 CUDA 12 的包代替 CUDA 13 的包，许可证相同，只有 cuda-bindings 采用
NVIDIA 自己的条款。av 的 wheel 还包含 FFmpeg 和编解码器，各有自己的许可证：LGPL-2.1-or-later，其中 x264 和 x265 为
GPL-2.0-or-later。
"""
_TITLES = {
    "": ("Always", "始终需要"),
    "report": ("With the extra `report`", "附加项 `report`"),
    "gpu": ("With the extra `gpu`", "附加项 `gpu`"),
    "ray": ("With the extra `ray`", "附加项 `ray`"),
    "remote": ("With the extra `remote`", "附加项 `remote`"),
    "dev": ("For the tests and checks", "测试与检查"),
    "docs": ("For the site that `make docs` builds", "`make docs` 所建的站点"),
}
_CLASSIFIED = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Other/Proprietary License": "NVIDIA's own terms",
    "LicenseRef-NVIDIA-Proprietary": "NVIDIA's own terms",
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
}
_NO_LICENCES = ("OSI Approved", "DFSG approved")


@dataclass(frozen=True)
class Package:
    """One package: who asks for it, and what it says of its licence."""

    name: str
    licence: str
    group: str
    wanted_by: str


def key(name: str) -> str:
    """A package's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(distribution: Distribution) -> str:
    """The licence that a package states: as an expression, else by its classifiers, else the first line of its text."""
    about = distribution.metadata
    for expression in map(str, about.get_all("License-Expression") or ()):
        return _CLASSIFIED.get(expression, expression)
    told = (value.split(" :: ") for value in about.get_all("Classifier") or ())
    classified = {kind[-1] for kind in told if kind[0] == "License"}.difference(_NO_LICENCES)
    if classified:
        return " and ".join(sorted({_CLASSIFIED.get(value, value) for value in classified}))
    text = (about.get_all("License") or [""])[0].strip().splitlines()
    if text:
        return "NVIDIA's own terms" if "NVIDIA" in text[0] else _CLASSIFIED.get(text[0], text[0][:60])
    return "NVIDIA's own terms" if key(about["Name"]).startswith(("nvidia-", "cuda-")) else "not stated"


def packages() -> list[Package]:
    """Everything that gpupeak needs, directly or not, of what is installed here."""
    there = {key(each.metadata["Name"]): each for each in distributions()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, Package] = {}
    for group in _TITLES:
        for wanted in map(Requirement, groups[group]):
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                _collect(wanted, group, "gpupeak", there, found)
    return sorted(found.values(), key=lambda each: (list(_TITLES).index(each.group), key(each.name)))


def _collect(
    wanted: Requirement, group: str, by: str, there: Mapping[str, Distribution], found: dict[str, Package]
) -> None:
    name = key(wanted.name)
    if name in found or name == "gpupeak" or name not in there:
        return
    distribution = there[name]
    found[name] = Package(distribution.metadata["Name"], licence(distribution), group, by)
    for needed in map(Requirement, distribution.requires or ()):
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
            _collect(needed, group, distribution.metadata["Name"], there, found)


def page(found: list[Package], chinese: bool = False) -> str:
    """The page."""
    columns = "| 包 | 许可证 | 由谁需要 |" if chinese else "| Package | Licence | Needed by |"
    lines = [_HEAD_ZH if chinese else _HEAD]
    for group, titles in _TITLES.items():
        rows = [f"| {each.name} | {each.licence} | {each.wanted_by} |" for each in found if each.group == group]
        if rows:
            lines += [f"## {titles[chinese]}", "", columns, "| --- | --- | --- |", *rows, ""]
    others = [f"{name} ({terms})" for name, terms in OTHER_PYTHONS.items()]
    lines.append(
        f"在 Python 3.10 上还有：{'、'.join(others)}。" if chinese else f"On Python 3.10 also: {', '.join(others)}."
    )
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    everything = packages()
    PAGE.write_text(page(everything), encoding="utf-8")
    PAGE.with_suffix(".zh-CN.md").write_text(page(everything, chinese=True), encoding="utf-8")
