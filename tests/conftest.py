"""What several tests read: clips, each made once a session, and the demo's corpus."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from clips import write_kind

from gpupeak.demo.corpus import DemoCorpus, make_corpus


def pytest_configure() -> None:
    """Processes that tests interrupt inherit an ignored SIGINT: from pytest-xdist's, or from a shell's background."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def clip_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the clip of a kind, one of `clips.KINDS`. Read it only."""
    directory = tmp_path_factory.mktemp("clips")
    return cache(lambda kind: write_kind(kind, directory))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DemoCorpus:
    """The corpus of `gpupeak demo`. Read it only."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))
