"""What got faster, and what slower, from one record to the other?

    python bench/compare.py OLD.jsonl NEW.jsonl

Rows are matched by part and name. Where a row holds gpupeak beside others, what is compared is how many times longer
the others took, because both sides of that ratio met the same machine; elsewhere seconds and rates, which say little
when the machines differ: what differs is told first. Exit code: 1 if anything got slower by more than PAST times,
2 if a file is no record.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from record import Row

PAST = 1.10
CONDITIONS = ("commit", "quick", "cpu", "cores", "memory_gib", "gpu", "driver", "versions")
ASIDE = ("took_s", "fastest_s", "slowest_s", "mbit_per_s", "targets", "fit")
"""Not compared: what belongs to the benchmark, to its spread, to its clips, or is derived from the other figures."""


def read(path: Path) -> tuple[Row, dict[str, Row]]:
    """The conditions of a record, and its rows by part and name. Exits with code 2 if the file is none."""
    try:
        first, *rest = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return dict(first["conditions"]), {f"{row['part']}: {row['row']}": dict(row) for row in rest}
    except (OSError, ValueError, LookupError, TypeError) as error:
        print(f"error: {path}: expected a record, as bench/record.py writes it: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def figures(row: Row) -> dict[str, tuple[float, bool]]:
    """The figures of a row that can be compared, by name: value, whether more of it is better."""
    if "ratios" in row:
        return {f"{side} over ours": (ratio["median"], True) for side, ratio in row["ratios"].items()}
    return {name: (value, more) for name, value, more in named("", row, None)}


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


def main() -> int:
    parser = argparse.ArgumentParser(description="What got faster or slower between two records.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    (old_conditions, old), (new_conditions, new) = read(options.old), read(options.new)
    for key in CONDITIONS:
        if old_conditions.get(key) != new_conditions.get(key):
            print(f"{key}: {old_conditions.get(key)} -> {new_conditions.get(key)}")
    for only, rows in (("old", old.keys() - new.keys()), ("new", new.keys() - old.keys())):
        for name in sorted(rows):
            print(f"only in the {only} record: {name}")
    gains: list[tuple[float, str]] = []
    for name in sorted(old.keys() & new.keys()):
        if new[name].get("ok") is False:
            print(f"FAILED in the new record: {name}: {new[name].get('says')}")
        there = figures(new[name])
        for figure, (was, more) in figures(old[name]).items():
            if figure not in there:
                print(f"only in the old record: {name}: {figure}")
                continue
            now, _ = there[figure]
            if was > 0 and now > 0:
                gain = now / was if more else was / now
                gains.append((gain, f"{name:50} {figure:28} {was:10.4g} -> {now:10.4g}  {gain:6.2f}x"))
    for gain, line in sorted(gains):
        print(f"{line}  {'SLOWER' if gain < 1 / PAST else 'faster' if gain > PAST else ''}".rstrip())
    slower = sum(gain < 1 / PAST for gain, _ in gains)
    print(f"{slower} figures got slower by more than {PAST:g} times")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
