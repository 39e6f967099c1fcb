"""The page on reliability says what the record that it links says, in both languages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def rows(parts: dict[str, Any]) -> list[list[str]]:
    """The numbers of each row of the table: what happened, then lost, torn, left over, memory and seed."""
    run, planned = parts["load"]["extraction"], parts["load"]["plan"]
    told = {
        "kills": "{kills} {runs} {clips:,}",
        "disk": "{faults_met}",
        "signals": "{signals}",
        "load": "{samples:,} {datasets} {samples_per_s:.0f}",
        "plan": "{listed:,} {seconds:.0f}",
        "soak": "{minutes:.0f} {faults_met} {runs}",
        "media": "{mutants:,} {longest_s:.0f}",
        "data": "{files:,} {longest_s:.1f}",
    }
    found = []
    for name, numbers in told.items():
        part = {**parts["load"], **{"load": run, "plan": planned}[name]} if name in ("load", "plan") else parts[name]
        cells = [part.get(key) for key in ("lost_samples", "torn_files", "orphans")]
        memory = part.get("peak_mib", part.get("worst_worker_mib"))
        cells += [None if memory is None else f"{memory:.0f}", part["seed"]]
        found.append([*numbers.format(**part).split(), *("-" if cell is None else str(cell) for cell in cells)])
    return found


@pytest.mark.parametrize(("page", "yes"), [("reliability.md", "yes"), ("reliability.zh-CN.md", "是")])
def test_the_figures_are_those_of_the_record_that_is_linked(page: str, yes: str) -> None:
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    (name,) = set(re.findall(r"\]\(\.\./(bench/results/faults-[\w.-]+\.json)\)", text))
    record = json.loads((REPOSITORY / name).read_text())
    assert record["conditions"]["commit"]
    assert all(part["ok"] and part["scale"] == "full" for part in record["parts"].values())
    lines = text[text.index(name) :].partition("---:")[2].splitlines()[1:9]
    for line, numbers in zip(lines, rows(record["parts"]), strict=True):
        event, *cells = line.strip("| ").split(" | ")
        assert sorted(re.findall(r"\d[\d.,]*\b", event)) + cells == [*sorted(numbers[:-5]), *numbers[-5:], yes]
    run = record["parts"]["load"]["extraction"]
    notes = re.findall(r"(?<!\w)\d[\d.,]*\b", text[text.index("`kept`", text.index(name)) :].partition("\n## ")[0])
    again = sum(part.get("failed_and_made_again", 0) for part in record["parts"].values())
    assert notes == [
        *(str(sum(part.get("kept_lines", 0) for part in record["parts"].values())), str(again)),
        *(f"{run[f'{what}_second_over_first']:.2f}" for what in ("cpu", "memory")),
        *(str(run[f"{what}_{half}"]) for what in ("files", "threads") for half in ("first", "second")),
        f"{record['parts']['load']['plan']['bytes_a_sample']:,.0f}",
    ]
