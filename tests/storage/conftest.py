"""Stores in memory are empty for every test, and nobody waits long between tries."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from gpupeak.storage import remote


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield
    remote.forget()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
