"""Two decoders on one run: who takes which sample, what is refused, and what is chosen after measuring."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import plan, sample

from gpupeak.decode.hybrid import HybridDecoder, choose
from gpupeak.decode.nvdec import Refused
from gpupeak.errors import DeviceError, RunError
from gpupeak.storage.places import local
from gpupeak.types import Failed, FrameBatch, Sample

SIZE = 2


class Side:
    """A decoder that notes what it decoded; `about` is called with each sample first."""

    def __init__(self, about: Callable[[Sample], object] = lambda sample: None, refuse: str = "") -> None:
        self.about, self.refuse = about, refuse
        self.decoded: list[str] = []
        self.closed = False

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed | Refused]:
        for each in samples:
            self.about(each)
            if self.refuse and each.name.startswith(self.refuse):
                yield Refused(each, "a codec", "said DALI")
            else:
                self.decoded.append(each.name)
                pixels = np.zeros((8, SIZE, SIZE, 3), np.uint8)
                yield FrameBatch((plan(local(each.target).parent, each.name),), pixels, ((0, 8),), ({},))

    def close(self) -> None:
        self.closed = True


def samples(directory: Path, count: int, name: str = "clip") -> Iterator[Sample]:
    return (sample(directory, f"{name}{number}") for number in range(count))


def names(items: Iterable[FrameBatch | Failed]) -> Counter[str]:
    return Counter(item.plans[0].sample.name if isinstance(item, FrameBatch) else item.sample.name for item in items)


def hybrid(gpu: Side, cpu: Side, mode: str = "hybrid", said: list[str] | None = None, trial: int = 6) -> HybridDecoder:
    say = (lambda line: None) if said is None else said.append
    return HybridDecoder(gpu, cpu, mode, say, trial=trial)  # type: ignore[arg-type]


def all_of(count: int) -> Counter[str]:
    return Counter({f"clip{number}": 1 for number in range(count)})


def test_both_sides_decode_at_the_same_time_and_every_sample_once(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=20)
    first: set[str] = set()

    def meet(each: Sample) -> None:
        if threading.current_thread().name not in first:
            first.add(threading.current_thread().name)
            both.wait()

    gpu, cpu = Side(meet), Side(meet)
    assert names(hybrid(gpu, cpu).decode(samples(tmp_path, 200))) == all_of(200)
    assert set(gpu.decoded).isdisjoint(cpu.decoded)
    assert gpu.decoded and cpu.decoded


def test_the_one_that_has_room_takes_what_the_other_does_not(tmp_path: Path) -> None:
    rest = threading.Event()
    cpu = Side(lambda each: rest.wait(20))
    gpu = Side()
    stream = hybrid(gpu, cpu).decode(samples(tmp_path, 50))
    seen = [next(stream) for _ in range(49)]  # the CPU is at its first sample all the while
    rest.set()
    assert names([*seen, *stream]) == all_of(50)
    assert len(gpu.decoded) >= 49


def test_on_nvdec_the_cpu_decodes_what_is_refused_only(tmp_path: Path) -> None:
    said: list[str] = []
    gpu, cpu = Side(refuse="clip1"), Side()
    decoder = hybrid(gpu, cpu, "nvdec", said)
    assert names(decoder.decode(samples(tmp_path, 30))) == all_of(30)
    assert sorted(cpu.decoded) == sorted(["clip1", *(f"clip1{i}" for i in range(10))])
    assert decoder.refused == {"a codec": 11}
    assert said == ["decoded on the CPU, not on NVDEC: a codec (said DALI); mine/clip1 is the first"]


def test_what_is_refused_does_not_wait_for_more(tmp_path: Path) -> None:
    first_is_out = threading.Event()

    def source() -> Iterator[Sample]:
        yield sample(tmp_path, "clip0")
        assert first_is_out.wait(20)
        yield sample(tmp_path, "clip1")

    stream = hybrid(Side(refuse="clip"), Side(), "nvdec").decode(source())
    seen = [next(stream)]
    first_is_out.set()
    assert names([*seen, *stream]) == all_of(2)


@pytest.mark.parametrize("mode", ["nvdec", "hybrid", "auto"])
def test_a_run_in_which_everything_is_refused(tmp_path: Path, mode: str) -> None:
    gpu, cpu = Side(refuse="clip"), Side()
    assert names(hybrid(gpu, cpu, mode).decode(samples(tmp_path, 600))) == all_of(600)
    assert len(cpu.decoded) == 600


@pytest.mark.parametrize("mode", ["nvdec", "hybrid", "auto"])
def test_what_is_not_to_be_decoded_on_a_gpu(tmp_path: Path, mode: str) -> None:
    gpu, cpu = Side(), Side()
    said: list[str] = []
    decoder = hybrid(gpu, cpu, mode, said)
    assert names(decoder.decode([replace(sample(tmp_path, "clip0"), on_cpu=True)])) == all_of(1)
    assert (gpu.decoded, cpu.decoded, said) == ([], ["clip0"], []), "nor is one sample a measurement"


@pytest.mark.parametrize("dying", ["gpu", "cpu", "samples"])
def test_an_error_on_either_side_ends_both(tmp_path: Path, dying: str) -> None:
    def die(each: Sample) -> None:
        raise DeviceError("broken")

    def source() -> Iterator[Sample]:
        number = 0
        while dying != "samples" or number < 10:
            yield sample(tmp_path, f"clip{number}")
            number += 1
        raise DeviceError("broken")

    gpu = Side(die) if dying == "gpu" else Side()
    cpu = Side(die) if dying == "cpu" else Side()
    with pytest.raises(RunError, match="broken"):
        names(hybrid(gpu, cpu).decode(source()))


def test_a_reader_that_leaves_ends_both(tmp_path: Path) -> None:
    before = threading.active_count()

    def endless() -> Iterator[Sample]:
        while True:
            yield sample(tmp_path)

    gpu, cpu = Side(), Side()
    decoder = hybrid(gpu, cpu)
    stream = decoder.decode(endless())
    next(stream)
    stream.close()
    assert threading.active_count() == before
    decoder.close()
    assert gpu.closed
    assert cpu.closed


@pytest.mark.parametrize(
    ("nvdec", "cpu", "said"),
    [
        (0.001, 0.1, "on NVDEC: by itself, NVDEC had 1000 samples/s, the CPU 10"),
        (0.1, 0.001, "on the CPU: by itself, NVDEC had 10 samples/s, the CPU 1000"),
        (0.01, 0.02, "on NVDEC and the CPU together: by itself, NVDEC had 100 samples/s, the CPU 50"),
    ],
)
def test_auto_measures_says_what_it_chose_and_wastes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvdec: float, cpu: float, said: str
) -> None:
    passed = [0.0]  # seconds
    monkeypatch.setattr("gpupeak.decode.hybrid.time.perf_counter", lambda: sum(passed))
    fast, slow = Side(lambda each: passed.append(nvdec)), Side(lambda each: passed.append(cpu))
    lines: list[str] = []
    seen = Counter[str]()
    for item in hybrid(fast, slow, "auto", lines).decode(samples(tmp_path, 60)):
        seen.update(names([item]))
        if not lines:
            passed.append(5)  # an encoder that takes its time is not the decoders' slowness
    assert seen == all_of(60)
    assert lines == [f"decoding {said}"]
    trial = 6 + 6 // 3
    assert {"cpu": len(fast.decoded), "nvdec": len(slow.decoded)}.get(choose(1 / nvdec, 1 / cpu), trial) == trial


@pytest.mark.parametrize(
    ("nvdec", "cpu", "mode"),
    [(500, 49, "nvdec"), (500, 51, "hybrid"), (49, 500, "cpu"), (0, 500, "hybrid"), (0, 0, "hybrid")],
)
def test_a_slow_side_is_left_out_and_one_without_samples_is_not(nvdec: float, cpu: float, mode: str) -> None:
    assert choose(nvdec, cpu) == mode
