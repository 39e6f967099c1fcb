"""The rows of the compatibility matrix, and how one that cannot be made is told."""

from __future__ import annotations

import json
import sys

import compat
import pytest
from compat import PYTHONS, lowest, rows, table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((compat.ROOT / "pyproject.toml").read_text())["project"]


def test_rows_hold_every_bound_and_every_python() -> None:
    found = list(rows(PROJECT))
    pinned = {pin for row in found for pin in row.pins}
    for name in ("torch", "open_clip_torch", "av", "numpy", "safetensors"):
        assert f"{name}=={lowest(PROJECT['dependencies'])[name]}" in pinned
    assert {row.python for row in found} == set(PYTHONS)
    dali = lowest(PROJECT["optional-dependencies"]["gpu"])["nvidia-dali-cuda130"]
    assert {row.name: row.gpu for row in found if row.gpu} == {f"DALI {dali}": "gpu", "CUDA 12": "gpu-cuda12"}
    assert len({row.name for row in found}) == len(found)
    assert all((compat.ROOT / "tests" / name).is_file() for name in compat.TESTS + compat.GPU_TESTS)
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


@pytest.mark.parametrize("page", ["reliability.md", "reliability.zh-CN.md"])
def test_the_page_shows_the_last_record(page: str) -> None:
    record = json.loads((compat.ROOT / "bench/results/compat.json").read_text())
    text = (compat.ROOT / "docs" / page).read_text(encoding="utf-8")
    assert [each["name"] for each in record["rows"]] == [row.name for row in rows(PROJECT)]
    assert {each["outcome"] for each in record["rows"]} <= {"passed", "no such Python"}
    assert table(record["rows"]) in text
