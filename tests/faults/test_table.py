"""The page on reliability shows the record that it links, and the parts are those that the script knows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import run as script
from corpus import Scale
from table import table

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


@pytest.mark.parametrize(("page", "language"), [("reliability.md", "en"), ("reliability.zh-CN.md", "zh")])
def test_the_figures_are_those_of_the_record_that_is_linked(page: str, language: str) -> None:
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    (name,) = set(re.findall(r"\]\(\.\./(bench/results/faults-[\w.-]+\.json)\)", text))
    command = [sys.executable, str(HERE / "table.py"), name, "--language", language]
    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert printed in text
    record = json.loads((REPOSITORY / name).read_text())
    assert record["conditions"]["commit"]
    assert all(part["ok"] and part["scale"] == "full" for part in record["parts"].values())


def test_a_part_that_failed_is_shown_as_it_is() -> None:
    figures = {"seed": 3, "kills": 5, "runs": 9, "clips": 2000, "lost_samples": 1, "torn_files": 0, "orphans": 0}
    record = {"parts": {"kills": {**figures, "ok": False}, "disk": {"seed": 3, "ok": False, "faults": ["broke off"]}}}
    *_, row = table(record)
    assert row == "| 5 kills by SIGKILL, 9 runs over 2,000 clips | 1 | 0 | 0 | - | 3 | no |"
    assert len(list(table(record))) == 3


def test_a_record_is_added_to_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "record.json"
    out.write_text(json.dumps({"conditions": {"commit": "abc"}, "parts": {"disk": {"ok": True}}}))

    def figures(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
        return {"seed": seed, "places": [str(work)], "ok": not list(work.iterdir())}

    def measure(part: Any) -> int:
        monkeypatch.setitem(sys.modules, "soak", SimpleNamespace(run=part))
        words = ["--only", "soak", "--scale", "small", "--seed", "9", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["run.py", *words])
        return script.main()

    assert measure(figures) == 0
    record = json.loads(out.read_text())
    assert record["conditions"] == {"commit": "abc"}
    assert record["parts"].keys() == {"disk", "soak"}
    soak = record["parts"]["soak"]
    assert (soak["seed"], soak["scale"], soak["ok"]) == (9, "small", True)
    assert not Path(soak["places"][0]).exists()

    assert measure(lambda scale, seed, work: 1 / 0) == 1
    assert json.loads(out.read_text())["parts"]["soak"]["faults"] == ["ZeroDivisionError: division by zero"]
