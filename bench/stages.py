"""How fast is each stage alone, beside what does the same elsewhere, and how far is it from what bounds it?

What bounds planning is reading a file once; decoding, libavcodec given nothing but the packets that the wanted
frames need; loading, reading a file. Files lie in the page cache. One thread of one process.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from timeit import timeit
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from peers.decoders import Decode, Pixels, Squash, peers
from record import NOISE, Record, Row, alternated, beside
from workload import Scale, decode_clips, facts, make, mean_difference, real_clips, sample_of

import gpupeak
from gpupeak.decode import decode_frames
from gpupeak.decode.planning import plan_frames
from gpupeak.decode.worker import Planned, prepare
from gpupeak.features.layout import feature_directory
from gpupeak.sampling import emotion_peak
from gpupeak.storage.places import local
from gpupeak.types import FramePlan, Sample
from gpupeak.video.container import open_clip

OURS, BOUND = "gpupeak", "bound"
Features: TypeAlias = "npt.NDArray[np.float32]"
N, DIM = 8, 768

# Planning


def planning(record: Record, scale: Scale, work: Path) -> None:
    """Opening, demuxing, reading the AU file, choosing the frames."""
    clips = make(decode_clips(scale), work / "clips").values()
    samples = [sample_of(path, work / "features", work / "aus") for path in clips]
    record.row("every clip", planned, samples, 3 * scale.rounds)


def planned(samples: Sequence[Sample], rounds: int) -> Row:
    """Every sample in turn, with what NVDEC has to know of its video and without."""
    for sample in samples:
        answer = prepare(sample, None)
        if not isinstance(answer, Planned) or answer.plan.peak is None:
            raise ValueError(f"{sample} was not planned around its peak: {answer}")
    sides: dict[str, Callable[[], object]] = {}
    for sample in samples:
        sides |= {f"{sample.name}, for NVDEC": partial(prepare, sample, None), sample.name: partial(_plan, sample)}
    seconds = {side: statistics.median(each) for side, each in alternated(sides, rounds).items()}
    mine = {sample.name: seconds[sample.name] for sample in samples}
    rate, slowest = len(mine) / sum(mine.values()), max(mine, key=mine.__getitem__)
    for_nvdec = len(mine) / sum(seconds[f"{name}, for NVDEC"] for name in mine)
    return {
        "seconds": seconds,
        "samples_per_s": rate,
        "samples_per_s_for_nvdec": for_nvdec,
        "targets": [
            {"what": "samples/s a core", "figure": rate, "sign": ">=", "limit": 150},
            {"what": "samples/s a core, for NVDEC", "figure": for_nvdec, "sign": ">=", "limit": 150},
        ],
        "says": f"{rate:.0f} samples/s, {for_nvdec:.0f} for NVDEC; slowest {slowest}: {1000 * mine[slowest]:.2f} ms",
    }


def _plan(sample: Sample) -> FramePlan:
    assert sample.video is not None
    with open_clip(local(sample.video)) as clip:
        return plan_frames(sample, clip.frames, clip.codec)


# Decoding

CLOSE = 1.5
"""A peer that takes so many times as long as the fastest one when it is judged is not measured again."""
AIMED_AT = ("decord", "torchcodec")
SHORT_GOP = 60
"""Frames from one key frame to the next, on average, up to which whole GOPs hold no wanted frame."""
QUICK_CLIP = 0.05  # seconds; what takes less is measured three times as often: it is disturbed more easily
ANOTHER_PICTURE = 12.0
"""A mean difference, of 255, that no way of squashing or converting the same picture makes."""


def decoding(record: Record, scale: Scale, work: Path) -> None:
    """Eight frames to 224x224: gpupeak, each peer, and what bounds them, clip by clip."""
    found, missing = peers()
    for name, reason in missing.items():
        record.row(name, dict, says=f"left out: {reason}")
    paths = [*make(decode_clips(scale), work / "clips").values(), *real_clips()]
    for decode in found.values():
        with contextlib.suppress(Exception):  # what only a library's first call costs
            decode(paths[-1], [0])
    # torchcodec also works on torch's threads, which on a busy machine wait for each other: four times as long it took.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = {path.stem: record.row(path.stem, eight_frames, path, found, scale.rounds) for path in paths}
    torch.set_num_threads(threads)
    record.row("every clip", over_clips, {name: row for name, row in rows.items() if row})


def eight_frames(path: Path, found: Mapping[str, Decode], rounds: int) -> Row:
    """One clip: who gives the right frames, and in how much time."""
    with open_clip(path) as clip:
        frames, keys = clip.frames, len(clip.key_frames)
    peak = zlib.crc32(path.stem.encode()) % frames
    indices = emotion_peak(peak, peak, frames - 1 - peak, frames, N)
    bound = Bound(path, indices)
    if not np.array_equal(bound(), decode_frames(path, indices)):
        raise ValueError("the bound decodes other frames")
    around = sorted({min(max(index + step, 0), frames - 1) for index in indices for step in (-1, 0, 1)})
    ours = dict(zip(around, decode_frames(path, around), strict=True))
    took = timeit(partial(decode_frames, path, indices), number=1)
    rounds *= 3 if took < QUICK_CLIP else 1
    judged = {name: judge(partial(decode, path, indices), indices, ours) for name, decode in found.items()}
    sides: dict[str, Callable[[], object]] = {OURS: partial(decode_frames, path, indices), BOUND: bound}
    sides |= {name: partial(found[name], path, indices) for name in contenders(judged)}
    compared = beside(OURS, alternated(sides, rounds))
    skips = keys > 1 and frames / keys <= SHORT_GOP
    row = {**facts(path), "indices": indices, "skips_gops": skips, "rounds": rounds, "judged": judged, **compared}
    return row | {"says": told(row)}


def judge(decode: Callable[[], Pixels], indices: Sequence[int], ours: Mapping[int, Pixels]) -> Row:
    """Time one peer, as the fastest of up to five calls in 0.15 s, and compare its pictures with ours.

    `ours` are our pictures by frame number, those next to the frames asked for among them. `wrong` counts the
    pictures that are more like a neighbour of their frame than like it, or like none of the three; `failed` says
    what was raised instead.
    """
    began = time.perf_counter()
    try:
        theirs = decode()
    except Exception as error:  # whatever a library raises at a file, it is a result
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:160]}
    seconds = [time.perf_counter() - began]
    while len(seconds) < 5 and sum(seconds) < 0.15:
        seconds.append(timeit(decode, number=1))
    off, wrong = list[float](), 0
    for index, picture in zip(indices, theirs, strict=True):
        at, *others = (mean_difference(picture, ours[each]) for each in (index, index - 1, index + 1) if each in ours)
        off.append(at)
        wrong += at > min(others, default=at) or at > ANOTHER_PICTURE
    return {"once_s": min(seconds), "difference": statistics.mean(off), "wrong": wrong}


def contenders(judged: Mapping[str, Row]) -> list[str]:
    """Who is timed beside gpupeak, of those with the right frames: all close to the fastest, and `AIMED_AT`."""
    once = {name: row["once_s"] for name, row in judged.items() if right(row)}
    close = [name for name in once if once[name] < CLOSE * min(once.values())]
    aimed_at = [min(ways, key=once.__getitem__) for library in AIMED_AT if (ways := ways_of(library, once))]
    return [*close, *(name for name in aimed_at if name not in close)]


def ways_of(library: str, names: Iterable[str]) -> list[str]:
    """The peers that are ways of using one library."""
    return [name for name in names if name.split()[0] == library]


def right(judged: Row) -> bool:
    return "failed" not in judged and not judged["wrong"]


def told(row: Row) -> str:
    """One clip in a line: our time, the bound and each peer in times of ours; `once`: not measured again."""
    mine = row["seconds"][OURS]["median_s"]
    parts = [f"{1000 * mine:.1f} ms"]
    parts += [f"{name} {ratio['median']:.2f}" for name, ratio in row["ratios"].items()]
    for name, judged in row["judged"].items():
        if "failed" in judged:
            parts.append(f"{name} FAILED")
        elif judged["wrong"]:
            parts.append(f"{name} {judged['wrong']} of {len(row['indices'])} frames WRONG")
        elif name not in row["ratios"]:
            parts.append(f"{name} {judged['once_s'] / mine:.1f} once")
    return ", ".join(parts)


def over_clips(rows: Mapping[str, Row]) -> Row:
    """The clip on which each figure is worst, beside what was to be reached."""
    medians = {clip: {name: ratio["median"] for name, ratio in row["ratios"].items()} for clip, row in rows.items()}
    peers_ = {clip: [ratio for name, ratio in of.items() if name != BOUND] for clip, of in medians.items()}
    fastest = {clip: min(others) for clip, others in peers_.items() if others}
    found = [("the fastest peer / gpupeak", ">=", NOISE, fastest)]
    for library in AIMED_AT:
        of_library = {
            clip: min(ratios[name] for name in ways)
            for clip, ratios in medians.items()
            if rows[clip]["skips_gops"] and (ways := ways_of(library, ratios))
        }
        found.append((f"{library} / gpupeak, GOPs to skip", ">=", 1.5, of_library))
    found.append(("gpupeak / bound", "<=", 1.1, {clip: 1 / ratios[BOUND] for clip, ratios in medians.items()}))
    targets = []
    for what, sign, limit, figures in found:
        if figures:
            clip = (min if sign == ">=" else max)(figures, key=figures.__getitem__)
            targets.append({"what": what, "figure": figures[clip], "sign": sign, "limit": limit, "clip": clip})
    says = "; ".join(f"{each['what']} {each['figure']:.2f} at worst ({each['clip']})" for each in targets)
    return {"targets": targets, "says": says}


class Bound:
    """libavcodec decoding nothing but the packets that some frames need, read beforehand, and one squash a frame."""

    def __init__(self, path: Path, indices: Sequence[int]) -> None:
        self._clip = clip = open_clip(path)
        self._runs = [list(clip.read(run)) for run in clip.runs(indices)]
        self._wanted = {clip.pts(index) if clip.timed else index: index for index in indices}
        self._indices = indices

    def __call__(self) -> Pixels:
        decoder, timed, squash = self._clip.decoder, self._clip.timed, Squash()
        pictures: dict[int, Pixels] = {}
        for run in self._runs:
            decoder.flush_buffers()
            frames = (frame for packet in (*run, None) for frame in decoder.decode(packet))
            for number, frame in enumerate(frames):
                index = self._wanted.get((frame.pts or 0) if timed else number)
                if index is not None:
                    pictures[index] = squash(frame)
                if len(pictures) == len(self._wanted):
                    break
        return np.stack([pictures[index] for index in self._indices])


# Loading

CLAIMED = (600, 1200)
"""How many times as long decoding at run time takes as loading features, by the guide of AffectGPT's fork."""


def loading(record: Record, scale: Scale, work: Path) -> None:
    """`load_features` beside `np.load`, and beside doing without features: decoding at run time."""
    one = record.row("one file", loaded, work / "root", 10 * scale.rounds)
    clips = make(decode_clips(scale), work / "clips").values()
    samples = [sample_of(path, work / "features", work / "aus") for path in clips]
    found, _ = peers()
    name = "decord" if "decord" in found else "PyAV seeking"
    record.row(f"instead, {name}", at_run_time, samples, found[name], scale.rounds, one)


def loaded(root: Path, rounds: int, files: int = 200) -> Row:
    """Microseconds a sample, over files that were just written."""
    home = feature_directory(root, "bench", "CLIP_VIT_LARGE", "emotion_peak", N)
    home.mkdir(parents=True)
    features = np.random.default_rng(0).standard_normal((N, DIM), np.float32)
    names = [f"sample_{number:08d}" for number in range(files)]
    for name in names:
        np.save(home / f"{name}.npy", features)
    sides: dict[str, Callable[[], object]] = {
        OURS: lambda: [gpupeak.load_features(root, "bench", name) for name in names],
        "np.load": lambda: [np.load(home / f"{name}.npy") for name in names],
    }
    compared = beside(OURS, alternated(sides, rounds))
    us = {side: 1e6 * figures["median_s"] / files for side, figures in compared["seconds"].items()}
    return {
        "files": files,
        "rounds": rounds,
        **compared,
        "us": us,
        "targets": [{"what": "us a sample by load_features", "figure": us[OURS], "sign": "<=", "limit": 30}],
        "says": ", ".join(f"{side} {figure:.1f} us" for side, figure in us.items()),
    }


def at_run_time(samples: Sequence[Sample], decode: Decode, rounds: int, one: Row) -> Row:
    """What the consumer does where there are no features: it reads the AU file, chooses the frames, decodes them."""
    seconds: dict[str, Row] = {}
    for sample in samples:
        assert sample.video is not None
        with open_clip(local(sample.video)) as clip:
            plan = partial(plan_frames, sample, clip.frames, clip.codec)
        steps: dict[str, Callable[[], object]] = {
            "sampling": plan,
            "decoding": partial(decode, local(sample.video), plan().indices),
        }
        seconds[sample.name] = {step: statistics.median(each) for step, each in alternated(steps, rounds).items()}
    taken = [sum(each.values()) for each in seconds.values()]
    times = {side: [1e6 * each / us for each in taken] for side, us in one["us"].items()}
    says = ", ".join(f"{min(each):,.0f} to {max(each):,.0f} times {side}" for side, each in times.items())
    return {"seconds": seconds, "times": times, "says": f"{says} (claimed: {CLAIMED[0]} to {CLAIMED[1]:,})"}
