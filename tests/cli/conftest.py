"""A run that does what a test says, and consoles that keep what they are told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

import pytest

import gpupeak.run
from gpupeak import ExtractConfig, RunReport
from gpupeak.tally import Observer

Run: TypeAlias = Callable[[ExtractConfig, Observer, threading.Event], RunReport]


class Stage:
    """Stands in for the run: keeps the settings it is called with and does what the test says."""

    def __init__(self) -> None:
        self.configs: list[ExtractConfig] = []
        self.act: Run = lambda config, observer, stop: RunReport((), 1.0, "cpu", False, ())

    def __call__(self, config: ExtractConfig, observer: Observer, stop: threading.Event) -> RunReport:
        self.configs.append(config)
        return self.act(config, observer, stop)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(gpupeak.run, "extract", stage)
    monkeypatch.delenv("GPUPEAK_TRACEBACK", raising=False)
    return stage
