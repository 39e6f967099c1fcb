"""What the tests of encoders share."""

from __future__ import annotations

from pathlib import Path

import pytest
from frames import Frames
from lazy_cuda import LazyCuda


@pytest.fixture
def frames() -> Frames:
    return Frames(LazyCuda())


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache directory of this test's own; what this process knows of another is not looked at."""
    home = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home
