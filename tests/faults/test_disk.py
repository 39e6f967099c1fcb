"""Disks, files and descriptors that fail a run, each in small."""

from __future__ import annotations

from pathlib import Path

import disk
import pytest
from harness import look

QUICK = ("disk_full", "not_permitted")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in disk.FAULTS]
)
def test_a_run_ends_as_promised_and_the_next_one_makes_it_good(name: str, trials: disk.Trials) -> None:
    disk.FAULTS[name](trials)
    assert trials.sound(), trials.wrong
    assert trials.happened.total() or trials.left_out


def test_a_torn_line_is_seen(tmp_path: Path) -> None:
    line = b'{"sample":"a","outcome":"saved"}\n'
    (tmp_path / "manifest.jsonl").write_bytes(line + line + b'{"sam')
    tree = look(tmp_path)
    assert (tree.doubled_lines, tree.unreadable_lines) == (1, 1)
