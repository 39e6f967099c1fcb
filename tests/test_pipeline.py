"""The straight line: one outcome a sample, whatever fails, stops or is slow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from samples import sample
from synthetic import SyntheticDecoder, SyntheticEncoder

from gpupeak import pipeline
from gpupeak.channel import Cancelled, Channel
from gpupeak.errors import WriteError
from gpupeak.features.writer import NpyWriter
from gpupeak.storage.places import local
from gpupeak.types import Failed, FeatureBatch, FrameBatch, Outcome, Sample, Saved

SIZE = 4


class Decoder(SyntheticDecoder):
    """Fails the samples named in `bad`; remembers what was asked for and whether it was ended."""

    def __init__(self, bad: Callable[[Sample], bool] = lambda sample: False) -> None:
        super().__init__(SIZE)
        self.bad, self.asked, self.ended = bad, 0, False

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed]:  # type: ignore[override]
        try:
            for one in samples:
                self.asked += 1
                if self.bad(one):
                    yield Failed(one, "decode", "broken")
                else:
                    yield from super().decode([one])
        finally:
            self.ended = True


class Encoder(SyntheticEncoder):
    """Waits for `gate` before each batch."""

    def __init__(self, gate: threading.Event | None = None, fault: Exception | None = None) -> None:
        super().__init__(dim=6, size=SIZE)
        self.gate, self.fault = gate, fault

    def encode(self, batches: Iterable[FrameBatch]) -> Generator[FeatureBatch | Failed]:  # type: ignore[override]
        for batch in batches:
            if self.gate is not None:
                assert self.gate.wait(30)
            if self.fault is not None:
                raise self.fault
            yield from super().encode([batch])


def line(samples: Iterable[Sample], decoder: Decoder | None = None, encoder: Encoder | None = None) -> list[Outcome]:
    return list(pipeline.run(samples, decoder or Decoder(), encoder or Encoder(), NpyWriter()))


def test_every_sample_has_exactly_one_outcome_and_its_own_features(tmp_path: Path) -> None:
    samples = [sample(tmp_path, f"clip {i}") for i in range(300)]
    outcomes = line(samples, decoder=Decoder(lambda one: one.name.endswith("7")))
    assert sorted(o.sample.name for o in outcomes) == sorted(s.name for s in samples)
    failed = {o.sample.name for o in outcomes if isinstance(o, Failed)}
    assert failed == {f"clip {i}" for i in range(7, 300, 10)}
    for one in samples:
        if one.name in failed:
            assert not local(one.target).exists()
        else:
            (batch,) = SyntheticDecoder(SIZE).decode([one])
            (wanted,) = SyntheticEncoder(dim=6, size=SIZE).encode([batch])
            assert isinstance(wanted, FeatureBatch)
            np.testing.assert_array_equal(np.load(local(one.target)), wanted.features)


def test_a_stage_that_breaks_ends_the_run_with_its_error_and_every_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    decoder = Decoder()
    encoder = Encoder(fault=RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        line((sample(tmp_path, str(i)) for i in range(10_000)), decoder=decoder, encoder=encoder)
    assert decoder.ended
    assert decoder.asked < 20, "nothing piles up behind a broken stage"
    assert threading.active_count() == before


def test_outcomes_reached_before_an_error_still_come_out(tmp_path: Path) -> None:
    samples = [sample(tmp_path, "good"), sample(tmp_path / "gone", "lost")]
    seen: list[str] = []
    with pytest.raises(WriteError, match="gone"):
        seen.extend(o.sample.name for o in pipeline.run(samples, Decoder(), Encoder(), NpyWriter(), writers=1))
    assert seen == ["good"]


def test_a_slow_encoder_holds_reading_ahead_back(tmp_path: Path) -> None:
    gate, decoder = threading.Event(), Decoder()
    outcomes = pipeline.run((sample(tmp_path, str(i)) for i in range(1000)), decoder, Encoder(gate), NpyWriter())
    threading.Timer(0.2, gate.set).start()
    next(outcomes)
    assert decoder.asked < 1000
    assert sum(1 for _ in outcomes) == 999


def test_stop_finishes_what_is_being_encoded_and_reaches_no_more(tmp_path: Path) -> None:
    stop, decoder, outcomes = threading.Event(), Decoder(), list[Outcome]()
    samples = (sample(tmp_path, str(i)) for i in range(100_000))
    for outcome in pipeline.run(samples, decoder, Encoder(), NpyWriter(), stop=stop):
        outcomes.append(outcome)
        stop.set()
    assert decoder.ended
    assert 1 <= len(outcomes) < 5000
    assert {o.sample.name for o in outcomes if isinstance(o, Saved)} == {path.stem for path in tmp_path.iterdir()}


def test_a_caller_that_leaves_early_ends_the_line(tmp_path: Path) -> None:
    before, decoder = threading.active_count(), Decoder()
    outcomes = pipeline.run((sample(tmp_path, str(i)) for i in range(100_000)), decoder, Encoder(), NpyWriter())
    next(outcomes)
    outcomes.close()
    assert decoder.ended
    assert threading.active_count() == before


def test_cancel_wakes_a_waiting_writer_and_a_waiting_reader() -> None:
    full: Channel[int] = Channel(1)
    empty: Channel[int] = Channel(1)
    full.put(0)
    with ThreadPoolExecutor(2) as threads:
        writer, reader = threads.submit(full.put, 1), threads.submit(list[int], empty)
        full.cancel()
        empty.cancel()
        assert isinstance(writer.exception(10), Cancelled)
        assert reader.result(10) == []
    assert list(full) == [], "what was queued is dropped"
