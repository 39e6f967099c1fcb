"""Stores in memory are empty for every test, and nobody waits long between tries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from gpupeak.storage import remote


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    yield
    remote.forget()
    remote._filesystem.cache_clear()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
