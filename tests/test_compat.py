"""The rows of the compatibility matrix, and how one that cannot be made is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import compat
import pytest
from compat import PYTHONS, Result, Row, attempt, find_python, lowest, recorded, rows, table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((compat.ROOT / "pyproject.toml").read_text())["project"]


def test_lowest_versions_are_those_of_the_project() -> None:
    assert lowest(["av>=17.1", "omegaconf>=2.4,<2.5", "gpupeak[report]", "tomli>=2; python_version < '3.11'"]) == {
        "av": "17.1",
        "omegaconf": "2.4",
        "tomli": "2",
    }


def test_rows_hold_every_bound_and_every_python() -> None:
    found = list(rows(PROJECT))
    pinned = {pin for row in found for pin in row.pins}
    for name in ("torch", "open_clip_torch", "av", "numpy", "safetensors"):
        assert f"{name}=={lowest(PROJECT['dependencies'])[name]}" in pinned
    assert {row.python for row in found} == set(PYTHONS)
    assert [row.name for row in found if row.gpu] == [
        f"DALI {lowest(PROJECT['optional-dependencies']['gpu'])['nvidia-dali-cuda130']}"
    ]
    assert len({row.name for row in found}) == len(found)
    assert all((compat.ROOT / "tests" / name).is_file() for name in compat.TESTS + compat.GPU_TESTS)
    classifiers = PROJECT["requires-python"]
    assert classifiers == f">={PYTHONS[0]}"


def test_a_python_is_found_by_its_version() -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = find_python(here)
    assert (
        found is None
        or subprocess.run(
            [found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        == here
    )
    assert find_python("2.99") is None


def test_a_row_without_its_python_says_so(tmp_path: Path) -> None:
    result = attempt(Row("gone", "2.99"), tmp_path, quick=True)
    assert (result.outcome, result.detail) == ("no such Python", "no python2.99 on the PATH or among pyenv's")
    assert "| gone | 2.99 |  |  |  |  | no such Python: no python2.99 on the PATH or among pyenv's |" in table([result])


def test_the_record_tells_of_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        compat, "attempt", lambda row, work, quick: Result(row, "passed", "3 passed", {"torch": "2.6.0"})
    )
    monkeypatch.setattr(sys, "argv", ["compat.py", "--only", "lowest", "torch", "--out", str(tmp_path / "r.json")])
    assert compat.main() == 0
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["rows"][0]["name"] == "all at their lowest"
    assert {row["outcome"] for row in record["rows"]} == {"passed"}


@pytest.mark.parametrize("page", ["reliability.md", "reliability.zh-CN.md"])
def test_the_page_shows_the_last_record(page: str) -> None:
    record = json.loads((compat.ROOT / "bench/results/compat.json").read_text())
    text = (compat.ROOT / "docs" / page).read_text(encoding="utf-8")
    found = recorded(record)
    assert [result.row.name for result in found] == [row.name for row in rows(PROJECT)]
    assert {result.outcome for result in found} == {"passed"}
    assert table(found) in text


def test_what_does_not_go_together_is_named() -> None:
    told = "x\nThe conflict is caused by:\n    a 1 depends on c>=2\n    The user requested c==1\n\nTo fix this"
    assert compat._conflict(told) == "a 1 depends on c>=2; The user requested c==1"
    assert compat._conflict("nothing") == ""
