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
ASIDE = ("took_s", "fastest_s", "slowest_s", "mbit_per_s", "targets", "fit")
"""Not compared: what belongs to the benchmark, to its spread, to its clips, or is derived from the other figures."""


class NoRecord(Exception):
    """A file is not a record of a benchmark; says which, and what is wrong with it."""


def read(path: Path) -> tuple[Row, dict[str, Row]]:
    """The conditions of a record, and its rows by part and name."""
    try:
        first, *rest = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return dict(first["conditions"]), {f"{row['part']}: {row['row']}": dict(row) for row in rest}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NoRecord(f"{path}: expected a record, as bench/record.py writes it: {error}") from error


def figures(row: Row) -> Iterator[tuple[str, float, bool]]:
    """The figures of a row that can be compared: name, value, whether more of it is better."""
    if "ratios" in row:
        for side, ratio in row["ratios"].items():
            yield f"{side} over ours", ratio["median"], True
    else:
        yield from named("", row, None)


def named(name: str, value: object, more: bool | None) -> Iterator[tuple[str, float, bool]]:
    """The figures in a value, however deep; `more` is what it is by its own name, and so are its parts."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in ASIDE:
                which = more_is_better(key)
                yield from named(f"{name} {key}".strip(), part, more if which is None else which)
    elif isinstance(value, list):
        for number, part in enumerate(value, 1):  # of a list of another length, no part is the same
            yield from named(f"{name} {number} of {len(value)}", part, more)
    elif isinstance(value, int | float) and not isinstance(value, bool) and more is not None:
        yield name, value, more


def more_is_better(name: str) -> bool | None:
    """Of a rate, not of a time; None for what is neither by its name, such as a condition."""
    if name.endswith("_per_s"):
        return True
    return False if name in ("seconds", "median_s") or name.endswith(("_ms", "_us", "ms_per_sample")) else None


def changes(old: dict[str, Row], new: dict[str, Row]) -> Iterator[tuple[str, str, float, float, float]]:
    """For every figure of both: row, name, old, new, and how many times faster the new one is."""
    for name in old.keys() & new.keys():
        before = {figure: value for figure, value, _ in figures(old[name])}
        for figure, value, more in figures(new[name]):
            was = before.get(figure, 0)
            if was > 0 and value > 0:
                yield name, figure, was, value, value / was if more else was / value


def lost(old: dict[str, Row], new: dict[str, Row]) -> Iterator[str]:
    """What the new record cannot tell of the rows that both have."""
    for name in sorted(old.keys() & new.keys()):
        if new[name].get("ok") is False:
            yield f"FAILED in the new record: {name}: {new[name].get('says')}"
        there = {figure for figure, *_ in figures(new[name])}
        for figure, *_ in figures(old[name]):
            if figure not in there:
                yield f"only in the old record: {name}: {figure}"


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
    for line in lost(old, new):
        print(line)
    slower = 0
    for name, figure, was, now, gain in sorted(changes(old, new), key=lambda change: change[-1]):
        verdict = "SLOWER" if gain < 1 / options.past else "faster" if gain > options.past else ""
        slower += verdict == "SLOWER"
        print(f"{name:50} {figure:28} {was:10.4g} -> {now:10.4g}  {gain:6.2f}x  {verdict}".rstrip())
    print(f"{slower} figures got slower by more than {options.past:g} times")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
