"""What got faster, and what slower, from one record to the other?

    python bench/compare.py OLD.jsonl NEW.jsonl [--past 1.10]

Rows are matched by part and name. Where a row holds gpupeak beside others, what is compared is how many times longer
the others took, because both sides of that ratio met the same machine; elsewhere seconds and rates, which say little
when the machines differ: what differs is told first. Exit code: 1 if anything got slower by more than --past times,
2 if a file is no record.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record import Row

CONDITIONS = ("commit", "quick", "cpu", "cores", "memory_gib", "gpu", "driver", "versions")


class NoRecord(Exception):
    """A file is not a record of a benchmark; says which, and what is wrong with it."""


def read(path: Path) -> tuple[Row, dict[str, Row]]:
    """The conditions of a record, and its rows by part and name."""
    try:
        first, *rest = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return first["conditions"], {f"{row['part']}: {row['row']}": row for row in rest}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NoRecord(f"{path}: expected a record, as bench/record.py writes it: {error}") from error


def figures(row: Row) -> Iterator[tuple[str, float, bool]]:
    """The figures of a row that can be compared: name, value, whether more of it is better."""
    for side, ratio in row.get("ratios", {}).items():
        yield f"{side} over ours", ratio["median"], True
    if "ratios" in row:
        return
    if "median_s" in row:
        yield "median_s", row["median_s"], False
    for name, value in row.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            if name.endswith("_per_s"):
                yield name, value, True
            elif name.endswith(("_ms", "_us", "_ms_a_sample", "_us_a_sample")) and not name.startswith("took"):
                yield name, value, False


def changes(old: dict[str, Row], new: dict[str, Row]) -> Iterator[tuple[str, str, float, float, float]]:
    """For every figure of both: row, name, old, new, and how many times faster the new one is."""
    for name in old.keys() & new.keys():
        before = {figure: value for figure, value, _ in figures(old[name])}
        for figure, value, more in figures(new[name]):
            was = before.get(figure, 0)
            if was > 0 and value > 0:
                yield name, figure, was, value, value / was if more else was / value


def differing(old: Row, new: Row) -> Iterator[tuple[str, Any, Any]]:
    for key in CONDITIONS:
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def main() -> int:
    parser = argparse.ArgumentParser(description="What got faster or slower between two records.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--past", type=float, default=1.10, help="how many times slower is a failure (default: 1.10)")
    options = parser.parse_args()
    try:
        (old_conditions, old), (new_conditions, new) = read(options.old), read(options.new)
    except NoRecord as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for key, was, now in differing(old_conditions, new_conditions):
        print(f"{key}: {was} -> {now}")
    for only, rows in (("old", old.keys() - new.keys()), ("new", new.keys() - old.keys())):
        for name in sorted(rows):
            print(f"only in the {only} record: {name}")
    slower = 0
    for name, figure, was, now, gain in sorted(changes(old, new), key=lambda change: change[-1]):
        verdict = "SLOWER" if gain < 1 / options.past else "faster" if gain > options.past else ""
        slower += verdict == "SLOWER"
        print(f"{name:50} {figure:28} {was:10.4g} -> {now:10.4g}  {gain:6.2f}x  {verdict}".rstrip())
    print(f"{slower} figures got slower by more than {options.past:g} times")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
