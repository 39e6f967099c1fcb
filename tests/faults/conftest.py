"""One undisturbed run, that all the tests of disturbed ones compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import SMALL
from disk import Trials, prepared


@pytest.fixture(scope="session")
def undisturbed_trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    return prepared(tmp_path_factory.mktemp("faults"), SMALL.few, seed=7)


@pytest.fixture
def trials(undisturbed_trials: Trials, tmp_path: Path) -> Trials:
    """Trials that have found nothing yet: what one test finds is no other's fault."""
    return Trials(undisturbed_trials.corpus, undisturbed_trials.expected, undisturbed_trials.draw, tmp_path)
