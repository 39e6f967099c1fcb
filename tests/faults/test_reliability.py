"""The page on reliability says what the record that it links says, in both languages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def figures(value: object) -> Iterator[str]:
    """Every number of a record, as a page may write it."""
    if isinstance(value, dict):
        for each in value.values():
            yield from figures(each)
    elif isinstance(value, (int, float)):
        yield from (format(value, form) for form in ("", ",", ".0f", ",.0f", ".1f", ".2f"))


@pytest.mark.parametrize("page", ["reliability.md", "reliability.zh-CN.md"])
def test_the_figures_are_those_of_the_record_that_is_linked(page: str) -> None:
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    (name,) = set(re.findall(r"\]\(\.\./(bench/results/faults-[\w.-]+\.json)\)", text))
    record = json.loads((REPOSITORY / name).read_text())
    parts = record["parts"].values()
    assert record["conditions"]["commit"]
    assert all(part["ok"] and part["scale"] == "full" for part in parts)
    sums = [sum(part.get(key, 0) for part in parts) for key in ("kept_lines", "failed_and_made_again")]
    shown = re.findall(r"(?<![\w-])\d[\d.,]*\b", text[text.index(name) + len(name) :].partition("\n## ")[0])
    assert len(shown) > 40
    assert set(shown) <= {*figures(record["parts"]), *map(str, sums)}
