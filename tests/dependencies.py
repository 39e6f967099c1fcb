"""What does gpupeak depend on, and under which licences? Writes the tables of docs/dependencies.md, in both languages.

    python tests/dependencies.py

Licences are those that the packages state themselves. Needs all that `make test` and `make docs` install.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from itertools import groupby
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/dependencies.md"
OTHER_PYTHONS = {"async-timeout": "Apache-2.0", "exceptiongroup": "MIT", "tomli": "MIT"}
"""Needed on Python 3.10 only, each with its licence."""
_GROUPS = ("", "report", "gpu", "ray", "remote", "dev", "docs")
"""The extras, none first, in the order of the page's tables; a package is in the first that asks for it."""
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
    for group in _GROUPS:
        for wanted in map(Requirement, groups[group]):
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                _collect(wanted, group, "gpupeak", there, found)
    return sorted(found.values(), key=lambda each: (_GROUPS.index(each.group), key(each.name)))


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


def page(text: str, found: list[Package]) -> str:
    """The page with its tables made anew; what stands around them is its own."""
    tables = [
        "".join(f"| {each.name} | {each.licence} | {each.wanted_by} |\n" for each in of_group)
        for _, of_group in groupby(found, key=lambda each: each.group)
    ]
    pieces = re.split(r"(?<=\| --- \| --- \| --- \|\n)(?:\|.*\n)+", text)
    return "".join(piece + table for piece, table in zip(pieces, [*tables, ""], strict=True))


if __name__ == "__main__":
    for file in (PAGE, PAGE.with_suffix(".zh-CN.md")):
        file.write_text(page(file.read_text(encoding="utf-8"), packages()), encoding="utf-8")
