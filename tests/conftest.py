"""Clips that several tests read, each made once a session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from clips import write_kind


@pytest.fixture(scope="session")
def clip_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the clip of a kind, one of `clips.KINDS`. Read it only."""
    directory = tmp_path_factory.mktemp("clips")
    return cache(lambda kind: write_kind(kind, directory))
