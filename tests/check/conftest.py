"""A small extraction that is done, for what looks at it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from samples import of_demo
from synthetic_lines import LineHere

import gpupeak
from gpupeak import ExtractConfig
from gpupeak.demo.corpus import DemoCorpus


@pytest.fixture(scope="session")
def extracted(corpus: DemoCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output root with the features of all of it. Read it only."""
    out = tmp_path_factory.mktemp("extracted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpupeak.lines.build.build", LineHere)
        assert gpupeak.extract(of_demo(corpus, out)).exit_code == 0
    return out


@pytest.fixture
def config(corpus: DemoCorpus, extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExtractConfig:
    """The settings of an extraction that is done: a copy, which may be changed. More is extracted as that was."""
    monkeypatch.setattr("gpupeak.lines.build.build", LineHere)
    shutil.copytree(extracted, tmp_path / "out")
    return of_demo(corpus, tmp_path / "out")
