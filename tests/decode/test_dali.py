"""The GPU's decoder on the CPU, where DALI decodes VP9: the frames of libav, and a bad file spoils no other's."""

from __future__ import annotations

import contextlib
import inspect
import platform
import re
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from clips import rotate, write_clip
from samples import sample

from gpupeak.decode import dali, decode_frames
from gpupeak.decode.dali import DaliDecoder, Window, native_bytes, remade
from gpupeak.decode.driver import Ability
from gpupeak.decode.hybrid import HybridDecoder
from gpupeak.decode.nvdec import Refused
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.worker import Planned, prepare
from gpupeak.errors import DeviceError
from gpupeak.storage.places import local
from gpupeak.types import Failed, FrameBatch, FramePlan, Sample, VideoFacts
from gpupeak.video.container import open_clip
from gpupeak.video.remake import Remade, remake

CPU = torch.device("cpu")
SIZE = 224
CLOSE = 1.0 if platform.machine() == "x86_64" else 2.5
"""Mean absolute difference to libav's frames: swscale's SIMD code rounds in its own way."""
Results = dict[str, "npt.NDArray[np.uint8] | Failed | Refused"]


def smooth(
    path: Path, size: tuple[int, int] = (320, 240), frames: int = 24, seed: int = 0, colorspace: int | None = None
) -> Path:
    """A VP9 clip of soft colours that move by 4 pixels a frame: noise would differ between any two scalers."""
    width, height = size
    coarse = np.random.default_rng(seed).integers(16, 240, (height // 40 + 8, width // 40 + 8, 3), np.uint8)
    scene = av.VideoFrame.from_ndarray(coarse, format="rgb24").reformat(
        width=40 * coarse.shape[1], height=40 * coarse.shape[0], interpolation="BICUBIC"
    )
    texture = np.asarray(scene.to_ndarray(), np.uint8)
    drawn = [np.ascontiguousarray(texture[2 * n : 2 * n + height, 4 * n : 4 * n + width]) for n in range(frames)]
    options = {"g": "8", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0", "b": "3M"}
    return write_clip(path, frames, size, "libvpx-vp9", options=options, colorspace=colorspace, drawn=drawn)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("vp9")
    sizes = [(320, 240), (240, 320), (480, 272), (320, 240), (320, 240), (480, 272)]
    return [smooth(directory / f"clip{i}.webm", size, 20 + i, seed=i) for i, size in enumerate(sizes)]


class Here:
    """Plans in this process. What the plans say can be changed, and so can what is in the files by then."""

    def __init__(self, change: Callable[[Planned], Planned] = lambda planned: planned) -> None:
        self.change = change

    def plan(self, samples: Iterable[Sample]) -> Generator[Planned | Failed]:
        for each in samples:
            answer = prepare(each, None)
            assert isinstance(answer, Planned | Failed)
            yield self.change(answer) if isinstance(answer, Planned) else answer

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are taken only when everything is planned: the same ones every time."""
    planned, finish, take = threading.Event(), Window.finish, Window.take

    def finished(window: Window, cancelled: bool = False) -> None:
        finish(window, cancelled)
        planned.set()

    def patient(window: Window, wait: bool) -> tuple[Planned, ...]:
        assert planned.wait(60)
        return take(window, wait)

    monkeypatch.setattr(Window, "finish", finished)
    monkeypatch.setattr(Window, "take", patient)


@contextlib.contextmanager
def decoder(planner: Any = None, device: torch.device = CPU, **options: Any) -> Iterator[DaliDecoder]:
    """`planner` stands in for a pool of processes."""
    planner, options = planner or Here(), {"pipelines": 1, "threads": 1, **options}
    with contextlib.closing(DaliDecoder(8, SIZE, planner, device, **options)) as made:
        yield made


def results(items: Iterable[FrameBatch | Failed | Refused]) -> Results:
    """What came of each sample, and that it came once."""
    found: Results = {}
    for item in items:
        if isinstance(item, FrameBatch):
            for plan, (start, stop) in zip(item.plans, item.spans, strict=True):
                assert plan.sample.name not in found
                found[plan.sample.name] = np.array(item.pixels[start:stop])
            item.release()
        else:
            assert item.sample.name not in found
            found[item.sample.name] = item
    return found


def planned(each: Sample) -> FramePlan:
    answer = prepare(each, None)
    assert isinstance(answer, Planned)
    return answer.plan


def difference(found: object, wanted: npt.NDArray[np.uint8]) -> float:
    assert isinstance(found, np.ndarray)
    return float(np.abs(found.astype(int) - wanted).mean())


def assert_libavs(found: object, each: Sample) -> None:
    """The frames are those of libav, and clearly not their neighbours."""
    plan = planned(each)
    assert each.video is not None
    wanted = decode_frames(local(each.video), plan.indices)
    assert difference(found, wanted) < CLOSE
    if plan.frames > 1:
        others = [index + 1 if index + 1 < plan.frames else index - 1 for index in plan.indices]
        assert difference(found, decode_frames(local(each.video), others)) > 3.0


def test_the_frames_of_libav_from_videos_of_several_sizes_in_one_batch(
    tmp_path: Path, clips: list[Path], all_at_once: None
) -> None:
    samples = [sample(tmp_path, clip.stem, video=clip) for clip in clips]
    with decoder() as nvdec:
        (batch,) = nvdec.decode(samples)
    assert isinstance(batch, FrameBatch)
    assert len(batch.pixels) >= 6 * 8
    assert all(set(seconds) == {"plan", "decode"} for seconds in batch.seconds)
    assert batch.ready is None
    found = results([batch])
    for each in samples:
        assert_libavs(found[each.name], each)


def test_bt709_and_rotation_and_few_frames(tmp_path: Path, all_at_once: None) -> None:
    plain = smooth(tmp_path / "plain.mp4")
    matrices = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
    clips = [rotate(plain, tmp_path / f"rotated{turn}.mp4", matrix) for turn, matrix in matrices.items()]
    clips += [smooth(tmp_path / "tagged.webm", colorspace=1), smooth(tmp_path / "untagged.webm", seed=2)]
    clips += [smooth(tmp_path / f"{frames}.webm", frames=frames) for frames in (1, 3)]
    samples = [sample(tmp_path, clip.stem, video=clip) for clip in clips]
    rotations = [planned(each).video.rotation for each in samples]  # type: ignore[union-attr]
    assert sorted(rotations) == [0, 0, 0, 0, 90, 180, 270]
    assert planned(samples[-1]).indices == (0, 1, 2, 2, 2, 2, 2, 2)
    samples.append(sample(tmp_path, "few", n=3, video=plain))
    with decoder() as nvdec:
        found = results(nvdec.decode(samples))
    for each in samples:
        assert len(found[each.name]) == each.rule.n  # type: ignore[arg-type]
        assert_libavs(found[each.name], each)


def test_several_pipelines_decode_every_sample_once_and_again(tmp_path: Path, clips: list[Path]) -> None:
    samples = [sample(tmp_path, f"{clip.stem}-{i}", video=clip) for i in range(2) for clip in clips]
    with decoder(WorkerPool(1, held=0), pipelines=3, batch_size=2, window=4) as nvdec:
        for _ in range(2):
            found = results(nvdec.decode(iter(samples)))
            assert found.keys() == {each.name for each in samples}
            for each in samples[:2]:
                assert_libavs(found[each.name], each)


def instead(name: str, change: Callable[[Remade], Remade]) -> Any:
    """Plans sample `name` as usual, then gives something else."""
    return Here(lambda each: replace(each, given=change(remade(each))) if each.plan.sample.name == name else each)


NO_VIDEO = b"no video" * 100


def spoilt(given: Remade) -> Remade:
    return given._replace(data=NO_VIDEO)


def test_a_poisoned_batch_among_those_in_flight_spoils_no_other(
    tmp_path: Path, clips: list[Path], all_at_once: None
) -> None:
    samples = [sample(tmp_path, f"{i}", video=clips[(0, 3, 4)[i % 3]]) for i in range(8)]  # of one size
    with decoder(instead("5", spoilt), batch_size=2, ahead=3) as nvdec:
        items = list(nvdec.decode(samples))
    sizes = [len(item.plans) for item in items if isinstance(item, FrameBatch)]
    assert sorted(sizes) == [1, 2, 2, 2]  # all but the poisoned batch came as they were
    found = results(items)
    assert found.keys() == {each.name for each in samples}
    refused = found.pop("5")
    assert isinstance(refused, Refused)
    assert refused.reason == "DALI failed" and "Failed to create video decoder" in refused.detail
    for each in samples[:3]:
        assert_libavs(found[each.name], each)


@pytest.mark.parametrize("sticks", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, IndexError])
def test_a_gpu_that_is_past_use_is_no_samples_fault_whatever_dali_raises(
    tmp_path: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch, error: type[Exception], sticks: bool
) -> None:
    gone = getattr(torch, "AcceleratorError", RuntimeError)  # older ones have no such type

    class Stream:
        def synchronize(self) -> None:
            if sticks:
                raise gone("CUDA error: an illegal memory access was encountered")

    class Broken:
        def feed_input(self, name: str, given: Any) -> None: ...
        def schedule_run(self) -> None: ...
        def share_outputs(self, stream: Any) -> None:
            raise error("CUDA runtime API error cudaErrorIllegalAddress (700)")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(dali, "frames_pipeline", lambda *arguments: Broken())
    with decoder(device=torch.device("cuda:0")) as nvdec:
        stream = nvdec.decode(sample(tmp_path, f"{i}", video=clips[0]) for i in range(20))
        if sticks:
            with pytest.raises(gone, match="CUDA error"):
                list(stream)
        else:
            refused = [each for each in results(stream).values() if isinstance(each, Refused)]
            assert [each.reason for each in refused] == ["DALI failed"] * 20


def test_what_dali_fails_on_goes_to_libav_then_fails(
    tmp_path: Path, clips: list[Path], clip_of: Callable[[str], Path]
) -> None:
    (text := tmp_path / "no_video.webm").write_bytes(NO_VIDEO)
    # DALI decodes no H.264 on the CPU, though NVDEC does: planned for it, then left to libav.
    videos = {"vp9-0": clips[0], "h264": clip_of("h264"), "spoiled": clips[0], "vp9-1": clips[1], "av1": clip_of("av1")}
    samples = [sample(tmp_path, name, video=video) for name, video in videos.items()]
    samples += [sample(tmp_path, "missing"), sample(tmp_path, "text", video=text)]
    said: list[str] = []
    nvdec = DaliDecoder(8, SIZE, instead("spoiled", spoilt), CPU, pipelines=2, threads=1, ahead=3)
    both = HybridDecoder(nvdec, WorkerPool(1, held=6), "nvdec", said.append)
    with contextlib.closing(both):
        found = results(both.decode(samples))
    assert found.keys() == {each.name for each in samples}
    assert both.refused == {"DALI failed": 2, "codec av1": 1}
    assert len(said) == 2
    failed = {name: result.stage for name, result in found.items() if isinstance(result, Failed)}
    assert failed == {"missing": "find", "text": "plan"}
    for each in samples:
        if each.name not in failed:
            assert difference(found[each.name], decode_frames(videos[each.name], planned(each).indices)) < CLOSE


def hidden(given: Remade) -> Remade:
    """libav delivers no hidden picture of VP8: all after it move up, and the last place stays as the memory was."""
    block = re.compile(b"(?s)\xa3\x01.{7}\x81..\0")  # a Matroska file's, before what is not its first packet
    (second, *_) = block.finditer(given.data)
    shown = given.data[second.end()]
    assert shown & 0x11 == 0x11, "an inter picture that is shown"
    return given._replace(data=given.data[: second.end()] + bytes([shown & ~0x10]) + given.data[second.end() + 1 :])


def beyond(given: Remade) -> Remade:
    return given._replace(ordinals=(*given.ordinals[:-1], given.pictures))


@pytest.mark.parametrize(("change", "detail"), [(hidden, "a picture was not delivered"), (beyond, "frame")])
def test_a_picture_that_is_not_delivered_is_an_error_for_its_sample(
    tmp_path: Path,
    clip_of: Callable[[str], Path],
    all_at_once: None,
    change: Callable[[Remade], Remade],
    detail: str,
) -> None:
    samples = [sample(tmp_path, name, video=clip_of("vp8")) for name in ("before", "bad", "after")]
    with decoder(instead("bad", change)) as nvdec:
        found = results(nvdec.decode(samples))
    refused = found.pop("bad")
    assert isinstance(refused, Refused)
    assert (refused.reason, detail in refused.detail) == ("DALI failed", True), refused
    assert found.keys() == {"before", "after"}
    np.testing.assert_array_equal(found["before"], found["after"])


def through_dali(data: bytes, frames: tuple[int, ...], shown: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """What the pipeline makes of frames of a file; `shown` is width and height."""
    pipeline = dali.frames_pipeline(CPU, len(frames), SIZE, 1, 1)
    pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8)])
    pipeline.feed_input("frames", [np.array(frames, np.int32)])
    pipeline.feed_input("shown", [np.array(shown[::-1], np.int32)])
    pipeline.schedule_run()
    return np.array(pipeline.share_outputs()[0].as_tensor())[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["vp8", "vp9", "vp9_odd"])
def test_dali_decodes_the_same_frames_of_a_video_made_anew(clip_of: Callable[[str], Path], kind: str) -> None:
    indices = (0, 9, 20, 30)
    with open_clip(clip_of(kind)) as clip:
        given = remake(clip, indices)
    *ours, last = through_dali(given.data, (*given.ordinals, given.pictures - 1), given.shown)
    np.testing.assert_array_equal(ours, through_dali(clip_of(kind).read_bytes(), indices, given.shown))
    np.testing.assert_array_equal(ours[0], last)


def test_what_is_not_shown_is_cropped_before_the_squash(tmp_path: Path) -> None:
    """VP8 of 300x170 is coded as 304x176; what lies beyond must not leak in, as by the filter of a region it would."""
    path = write_clip(tmp_path / "clip.webm", 20, (300, 170), "libvpx", options={"deadline": "realtime", "b": "2M"})
    with open_clip(path) as clip:
        given = remake(clip, (3, 19))
    assert (given.coded, given.shown) == ((304, 176), (300, 170))
    ours, whole = (
        through_dali(data, frames, given.shown)
        for data, frames in ((given.data, given.ordinals), (path.read_bytes(), (3, 19)))
    )
    np.testing.assert_array_equal(ours[:, :-3, :-3], whole[:, :-3, :-3])
    # At the edges, swscale has taken the colours from one pixel further on.
    assert np.abs(ours.astype(int) - whole).max() < 5
    assert not np.array_equal(through_dali(given.data, given.ordinals, given.coded)[:, :-3, :-3], ours[:, :-3, :-3])


def test_when_everything_fails_it_is_not_the_samples(tmp_path: Path, clip_of: Callable[[str], Path]) -> None:
    samples = (sample(tmp_path, f"{i}", video=clip_of("h264")) for i in range(100))
    with decoder() as nvdec, pytest.raises(DeviceError, match="DALI failed on 64 samples in a row: Assert on"):
        list(nvdec.decode(samples))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"abilities": {("vp9", "yuv420p"): Ability((128, 128), (320, 320), 300, 1)}},
            "vp9 of 480x272, this GPU decodes 128x128 to 320x320, at most 300 blocks of 16x16",
        ),
        ({"memory": 7 << 20}, "frames of more than 7 MiB"),
    ],
)
def test_what_is_too_large_for_this_gpu_or_a_batch_is_refused(
    tmp_path: Path, clips: list[Path], options: dict[str, Any], reason: str
) -> None:
    samples = [sample(tmp_path, clip.stem, video=clip) for clip in clips[1:3]]  # of 240x320 and 480x272
    with decoder(**options) as nvdec:
        found = results(nvdec.decode(samples))
    refused = {name: each.reason for name, each in found.items() if isinstance(each, Refused)}
    assert refused == {"clip2": reason}


@pytest.mark.parametrize(("engines", "pipelines"), [(None, 8), (0, 8), (1, 2), (5, 6), (7, 8), (16, 8)])
def test_as_many_pipelines_as_load_the_engines(
    monkeypatch: pytest.MonkeyPatch, engines: int | None, pipelines: int
) -> None:
    built: list[object] = []
    monkeypatch.setattr(dali, "frames_pipeline", lambda *arguments: built.append(arguments))
    ability = Ability((48, 16), (4096, 4096), 65536, engines or 0)
    with decoder(pipelines=None, abilities=None if engines is None else {("h264", "yuv420p"): ability}):
        assert len(built) == pipelines


def test_a_reader_that_leaves_ends_the_threads(tmp_path: Path, clips: list[Path]) -> None:
    def endless() -> Iterator[Sample]:
        while True:
            yield sample(tmp_path, video=clips[0])

    with decoder(pipelines=2, window=4, batch_size=2) as nvdec:
        stream = nvdec.decode(endless())
        next(stream)
        stream.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("gpupeak-dali")]


def test_a_device_on_which_dali_cannot_be_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("Critical error\nencountered:\n\nCUDA driver is missing\nC++ context: [..]")

    monkeypatch.setattr(dali, "frames_pipeline", fail)
    told = r"DALI cannot be set up on cuda:0: CUDA driver is missing$"
    with pytest.raises(DeviceError, match=told), decoder(device=torch.device("cuda:0")):
        pass


def made(
    directory: Path, name: str, size: tuple[int, int] = (640, 368), codec: str = "h264", data: int = 1000
) -> Planned:
    """A plan of eight frames that nothing was read for."""
    video = VideoFacts(bt709=False, full_range=False, rotation=0, pix_fmt="yuv420p")
    given = Remade(bytes(data), tuple(range(8)), 9, size, size)
    return Planned(FramePlan(sample(directory, name), given.ordinals, 100, codec, video=video), {"plan": 0.0}, given)


def window(*plans: Planned, size: int = 100, batch_size: int = 4, memory: int = 1 << 40) -> Window:
    made = Window(size, batch_size, memory)
    for each in plans:
        made.add(each)
    return made


def taken(window: Window) -> list[list[str]]:
    batches = iter(lambda: window.take(wait=False), ())
    return [[each.plan.sample.name for each in batch] for batch in batches]


def test_batches_are_of_one_codec_and_size_while_there_are_enough(tmp_path: Path) -> None:
    kinds = [("a", (640, 368), "h264"), ("b", (1280, 720), "h264"), ("c", (640, 368), "hevc")]
    plans = [made(tmp_path, f"{name}{i}", size, codec) for i in range(5) for name, size, codec in kinds]
    batches = taken(window(*plans))
    assert [[name[0] for name in batch] for batch in batches] == [["a"] * 4, ["b"] * 4, ["c"] * 4, ["a", "b", "c"]]
    assert Counter(name for batch in batches for name in batch) == {each.plan.sample.name: 1 for each in plans}


SURFACES = 22  # 20 where a stream does not say how many its decoder needs, and 2 for what is read


@pytest.mark.parametrize(
    ("size", "videos"), [((672, 384), 16), ((1280, 720), 10), ((1920, 1088), 4), ((2560, 1440), 2), ((3840, 2160), 1)]
)
def test_eight_pipelines_of_one_size_take_less_than_16_gib(tmp_path: Path, size: tuple[int, int], videos: int) -> None:
    default = {name: each.default for name, each in inspect.signature(DaliDecoder).parameters.items()}
    plans = [made(tmp_path, f"{i}", size) for i in range(20)]
    (first, *_) = taken(window(*plans, batch_size=default["batch_size"], memory=default["memory"]))
    assert len(first) == videos
    # All pipelines share the decoders that are not in use.
    decoders = min(default["threads"], videos) * SURFACES * size[0] * size[1] * 3 // 2
    assert 8 * (default["ahead"] * videos * native_bytes(plans[0]) + decoders) < 16 << 30


@pytest.mark.parametrize(("size", "data"), [(2, 1000), (100, 100 << 20)])
def test_a_full_window_holds_the_planner_back_until_a_batch_is_taken(tmp_path: Path, size: int, data: int) -> None:
    full = window(*(made(tmp_path, f"{i}", data=data) for i in range(2)), size=size, batch_size=1)
    added = threading.Event()

    def add() -> None:
        full.add(made(tmp_path, "late", data=data))
        added.set()

    thread = threading.Thread(target=add)
    thread.start()
    assert not added.wait(0.05)
    full.take(wait=True)
    assert added.wait(20)
    thread.join()
    assert taken(full) == [["1"], ["late"]]


def test_a_size_that_dali_would_decode_with_anothers_decoder(tmp_path: Path) -> None:
    sizes = [(480, 264), (480, 272), (480, 264), (480, 272), (640, 360), (480, 264)]
    plans = [made(tmp_path, f"{i}", size, "vp9", data=1) for i, size in enumerate(sizes)]

    class Made(Here):
        def plan(self, samples: Iterable[Sample]) -> Generator[Planned | Failed]:
            yield from plans

    with decoder(Made()) as nvdec:
        found = results(nvdec.decode([]))
    reasons = Counter(each.reason for each in found.values() if isinstance(each, Refused))
    assert reasons == {"size that DALI may decode with another's decoder": 2, "DALI failed": 4}
    refused = {name for name, each in found.items() if isinstance(each, Refused) and "size" in each.reason}
    assert refused == {"1", "3"}, "whichever of the two is decoded first: only one of them ever is"
