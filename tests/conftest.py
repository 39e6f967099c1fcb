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


_DEADLY = """
import av, os, signal, time
from pathlib import Path

real = av.open

def faulty(path, *arguments, **options):
    video = Path(path.removeprefix("file:"))
    if video.stem.startswith("hang"):
        time.sleep(1000)
    if video.stem.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if video.stem == "once" and not video.with_name("died").exists():
        video.with_name("died").touch()
        os._exit(3)
    return real(path, *arguments, **options)

av.open = faulty
"""


@pytest.fixture
def deadly_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers hang, crash or exit when libav opens a video whose name begins with hang, deadly or once."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(_DEADLY)
    root = Path(__file__).parents[1]  # for an interpreter that gpupeak is not installed in
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'hook'}:{root}")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DemoCorpus:
    """The corpus of `gpupeak demo`. Read it only."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))
