"""A run that is killed leaves only whole files, and the next one makes the rest: in small."""

from __future__ import annotations

from pathlib import Path

import kills
from corpus import SMALL


def test_killed_runs_lose_nothing_and_leave_nothing_torn(tmp_path: Path) -> None:
    found = kills.run(SMALL, 7, tmp_path)
    assert found["ok"], found
    assert found["kills"] == SMALL.kills
    assert found["files_checked"] == SMALL.clips * found["directories"]
