"""Disks, files and descriptors that fail a run, each in small."""

from __future__ import annotations

import random
from pathlib import Path

import disk
import pytest
from corpus import SMALL, make_corpus
from harness import look, small_disk, undisturbed


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> disk.Trials:
    work = tmp_path_factory.mktemp("disk")
    corpus = make_corpus(work / "corpus", SMALL.few)
    return disk.Trials(corpus, undisturbed(corpus, work / "undisturbed"), random.Random(7), work)


@pytest.mark.parametrize("name", disk.FAULTS)
def test_a_run_ends_as_promised_and_the_next_one_makes_it_good(name: str, trials: disk.Trials) -> None:
    disk.FAULTS[name](trials)
    assert trials.wrong == []
    assert trials.found["orphans"] == 0
    assert trials.happened.total() or trials.left_out


def test_a_small_disk_is_small_and_gone_afterwards(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    with small_disk(place, 1 << 20) as resize:
        if resize is not None:
            with pytest.raises(OSError, match="No space"):
                (place / "large").write_bytes(bytes(2 << 20))
            resize(4 << 20)
            (place / "large").write_bytes(bytes(2 << 20))
    assert list(place.iterdir()) == []


def test_a_torn_line_is_seen(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_bytes(
        b'{"sample":"a","outcome":"saved"}\n{"sample":"a","outcome":"saved"}\n{"sam'
    )
    tree = look(tmp_path)
    assert (tree.doubled_lines, tree.unreadable_lines) == (1, 1)
