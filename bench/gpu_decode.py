"""The rows of the GPU check that decode: are NVDEC's frames libav's, what does it take, how near is the line?"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from importlib import import_module
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from unittest import mock

import gpu_colours
import gpu_corpus
import numpy as np
import torch
from gpu_corpus import MIX, RULE, TOTAL, Clip, Corpus
from gpu_encode import SIZE, Setup, Step, alone, clocks, drawn, features_of
from monitor import Monitor
from record import Missing, Record, Row, alternated, cores, needed, timed
from record import beside as times_beside
from workload import encode, mean_difference, sample_of, saved

from gpupeak.config import ExtractConfig
from gpupeak.decode.hybrid import HybridDecoder
from gpupeak.decode.nvdec import examine, nvdec_abilities
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.worker import Planned
from gpupeak.encode.gpu.graphs import EagerRunner, GraphEncoder
from gpupeak.encoders import CLIP_VIT_LARGE
from gpupeak.features.writer import NpyWriter
from gpupeak.lines.build import Parts, build, cuda_line
from gpupeak.pipeline import Decoder, Line
from gpupeak.storage.places import local
from gpupeak.types import FrameBatch, FramePlan, Sample, SamplingRule
from gpupeak.video.container import open_clip
from gpupeak.video.remake import Remade, Unsafe, remake

Frames: TypeAlias = dict[str, FrameBatch]
T = TypeVar("T")

N = RULE.n
DIFFERENCE = 2.0  # to libav's frames: the mean, of 255
MODES = ("nvdec", "cpu", "hybrid", "auto")
SIDES = ((8, 8), (4, 8), (4, 4), (2, 8), (1, 8), (1, 1))  # DALI's pipelines, the threads of each; not the default
SIZES = ((1280, 720), (1920, 1080), (672, 378))
AT_ONCE = 8  # decoders that are made together
NOT_NVDEC = "on the CPU, not on NVDEC"  # so a line says that it left samples to libav
POISONS: dict[str, Callable[[bytes], bytes]] = {
    "no video": lambda data: b"no video" * 100,
    "cut off": lambda data: data[: len(data) // 2],
    "bits flipped": lambda data: data[: len(data) // 3] + bytes(byte ^ 0x55 for byte in data[len(data) // 3 :]),
}
"""What is done to what NVDEC is given. Bit errors in pictures cannot be seen through DALI: frames come, or none."""


@dataclass(frozen=True)
class Decoding:
    """What is decoded, on which of the two sides, and the record, whose rows a later one stands beside."""

    setup: Setup
    record: Record
    root: Path

    @cached_property
    def corpus(self) -> Corpus:
        return Corpus(self.root, self.setup.small, gpu_corpus.draw(self.root, self.setup.small))

    def nvdec(self, planner: Any = None, **options: Any) -> Any:
        """DALI on the CPU is in NVDEC's place in a dry run."""
        if self.setup.small:
            needed("nvidia.dali")
            options |= {"pipelines": 1, "threads": 1}
        elif isinstance(found := nvdec_abilities(), str):
            raise Missing(found)
        else:
            options["abilities"] = found
        from gpupeak.decode.dali import DaliDecoder

        return DaliDecoder(N, SIZE, planner or self.planner(), self.setup.device, **options)

    def planner(self) -> WorkerPool:
        return self.pool(held=0, most=3)  # as many as on the line

    def pool(self, held: int = 96, most: int = 1000) -> WorkerPool:
        return WorkerPool(1 if self.setup.small else min(cores(), most), N, SIZE, held=held)

    def hybrid(self, mode: str = "nvdec") -> HybridDecoder:
        return HybridDecoder(self.nvdec(), self.pool(), mode, lambda text: None, trial=2)

    def parts(self, mode: str) -> Parts:
        """The parts of the line, in this process."""
        setup = self.setup
        if not setup.small:
            config = ExtractConfig(weights="random:0")
            return cuda_line(config, CLIP_VIT_LARGE, N, "cuda:0", mode, lambda text: None)
        runner = EagerRunner(setup.tower(setup.dtype), setup.cuda, max(setup.buckets))
        decoder: Decoder = self.pool() if mode == "cpu" else self.hybrid(mode)
        return Parts(decoder, GraphEncoder(runner, n=N), NpyWriter(), "cpu")

    def line(self, mode: str, tell: Callable[[str], None]) -> Line:
        """The line as a user gets it: on a GPU, in a supervised process of its own."""
        if self.setup.small:
            return self.parts(mode)
        if mode != "cpu" and isinstance(found := nvdec_abilities(), str):
            raise Missing(found)
        return build(ExtractConfig(device="cuda:0", decoder=mode, weights="random:0"), CLIP_VIT_LARGE, N, tell)

    def both(self, samples: list[Sample]) -> tuple[Frames, Frames, Counter[str]]:
        """NVDEC's frames, those of libav, and what NVDEC did not decode, by its reason."""
        sides = []
        for make in (self.nvdec, self.pool):
            with contextlib.closing(make()) as decoder:
                sides.append(decoded(decoder, samples))
        (_, ours, left_out), (_, libavs, _) = sides
        return ours, libavs, left_out

    def of_corpus(self, is_special: bool = False) -> Row:
        return check_frames(*self.both(self.corpus.clips(is_special)))

    def clip(self, size: tuple[int, int], codec: str = "h264", frames: int = 61) -> Clip:
        if self.setup.small:
            size, codec, frames = (max(128, size[0] // 4 & -16), max(128, size[1] // 4 & -16)), "vp9", 12
        return Clip(f"{codec}-{size[0]}x{size[1]}", frames, size, codec=codec)

    def numbers(self) -> Row:
        """The frames that were planned, of H.264 with B frames and of MPEG-4 in AVI."""
        clips = [*map(self.clip, SIZES), self.clip((720, 480), "mpeg4")]
        return check_frames(*self.both([gpu_corpus.sample(self.root, clip) for clip in clips]))

    def making(self, size: tuple[int, int]) -> Row:
        """Twenty decodes of one clip, and eight at once, twice: only the first of each has decoders to make."""
        named = partial(gpu_corpus.sample, self.root, self.clip(size))
        other = partial(gpu_corpus.sample, self.root, self.clip((640, 384), frames=12))
        few = {"threads": 1, "batch_size": 1, "ahead": 1}
        with contextlib.closing(self.nvdec(pipelines=1, **few)) as decoder:
            arrivals(decoder, [other("warm")])
            seconds = arrivals(decoder, [named(f"{size[0]}-{turn}") for turn in range(20)])
        with contextlib.closing(self.nvdec(pipelines=AT_ONCE, **few)) as decoder:
            arrivals(decoder, [other(f"warm-{number}") for number in range(4 * AT_ONCE)])
            used = self.used_bytes()
            rounds = [
                sum(arrivals(decoder, [named(f"{size[0]}-{turn}-{number}") for number in range(AT_ONCE)]))
                for turn in range(2)
            ]
            taken = (self.used_bytes() - used) / AT_ONCE
        again = statistics.median(seconds[1:])
        cost, together = seconds[0] - again, rounds[0] - rounds[1]
        made = sum(each - again > cost / 2 for each in seconds)
        says = f"{1e3 * cost:.1f} ms, then {1e3 * again:.1f} ms a decode; {AT_ONCE} at once {1e3 * together:.1f} ms, "
        says += f"{together / cost / AT_ONCE:.2f} of one after another; {taken / 2**20:.0f} MiB each"
        figures = {"making_s": cost, "together_s": together, "decoders": made, "bytes_a_session": taken}
        ok = self.setup.small or made <= 3  # one, if nothing else takes as long
        return {"ok": ok, "decodes_s": seconds, "rounds_s": rounds, **figures, "says": says}

    def used_bytes(self) -> int:
        """On the GPU, by whomever."""
        free, total = (0, 0) if self.setup.small else torch.cuda.mem_get_info()
        return total - free

    def colours(self) -> Row:
        paths = gpu_colours.write(self.root, "vp9" if self.setup.small else "h264")
        rule = SamplingRule("uniform", gpu_colours.FRAMES)
        samples = [sample_of(path, self.root, self.root, rule) for path in paths.values()]
        ours, libavs, left_out = self.both(samples)
        rows = {name: gpu_colours.judge(*(np.asarray(side[name].pixels) for side in (ours, libavs))) for name in ours}
        says = "; ".join(f"{name}: {row['says'].partition(' of 255')[0]}" for name, row in rows.items())
        ok = rows.keys() == paths.keys() and all(row["ok"] for row in rows.values())
        return {"ok": ok, "films": rows, "left_out": left_out, "says": says or f"none decoded: {dict(left_out)}"}

    def drawn(self) -> Row:
        made = self.corpus.drawn
        return {**made, "says": f"{made['clips']} clips at {8e-6 * made['bytes'] / made['seconds']:.2g} Mbit/s"}

    def third(self) -> list[Sample]:
        return self.corpus.samples(every=1 if self.setup.small else 3)

    def trimmed(self) -> Row:
        """NVDEC alone, given whole videos and trimmed ones: the same frames bit for bit, and which takes longer?"""
        clips = self.corpus.clips() + self.corpus.clips(is_special=True)
        with contextlib.ExitStack() as stack:
            planners = {"whole": Whole(self.planner(), clips), "trimmed": None}
            sides = {side: stack.enter_context(contextlib.closing(self.nvdec(each))) for side, each in planners.items()}
            (_, whole, others), (_, ours, left_out) = (decoded(decoder, clips) for decoder in sides.values())
            samples = self.third()
            works = {side: partial(decoded, decoder, samples, keep=False) for side, decoder in sides.items()}
            row = times_beside("whole", alternated(works, self.setup.repeats, warm=0))
        difference = max(mean_difference(ours[name].pixels, whole[name].pixels) for name in whole.keys() & ours.keys())
        ok, ratio = difference == 0 and left_out == others == Counter(), row["ratios"]["trimmed"]
        rates = {side: len(samples) / row["seconds"][side]["median_s"] for side in sides}
        says = f"{rates['whole']:.1f} samples/s whole, {rates['trimmed']:.1f} trimmed, in {ratio['least']:.2f} to "
        says += f"{ratio['most']:.2f} of the time; difference {difference:.2f}"
        figures = {"samples": len(samples), "samples_per_s": rates, "difference": difference}
        return {**row, **figures, "ok": ok, "left_out": left_out, "says": says}

    def rate(self, make: Callable[[], Any], **conditions: Any) -> Row:
        """Of a third of the samples, every batch given back at once: up to three times, begun within 8 s."""
        samples = self.third()
        with contextlib.closing(make()) as decoder:
            decoded(decoder, self.corpus.clips(), keep=False)  # warm
            work = partial(decoded, decoder, samples, keep=False)
            (plans, _, others), row = measured(work, self.setup.repeats, 8)
        took, frames = row["median_s"], sum(map(frames_to_decode, plans))
        rates = {"samples_per_s": len(plans) / took, "frames_per_s": frames / took}
        says = f"{rates['samples_per_s']:.1f} samples/s, {rates['frames_per_s']:.0f} pictures/s{busy(row)}"
        figures = {"samples": len(samples), "pictures_a_sample": frames / max(1, len(plans)), "left_out": others}
        return {**conditions, **row, **rates, **figures, "ok": not others, "says": says}

    def pynvvideocodec(self) -> Row:
        """NVIDIA's own reader, decoders reconfigured from clip to clip, one a thread: RGB at full size, no squash."""
        needed("PyNvVideoCodec")
        nvc: Any = import_module("PyNvVideoCodec")
        with contextlib.closing(self.planner()) as pool:
            plans = [answer.plan for answer in pool.plan(self.third()) if isinstance(answer, Planned)]

        def work(share: list[FramePlan]) -> int:
            decoder, frames = None, 0
            for plan in share:
                video = str(video_of(plan.sample))
                if decoder is None:
                    options = {"output_color_type": nvc.OutputColorType.RGB, "max_width": 1920, "max_height": 1088}
                    decoder = nvc.SimpleDecoder(video, gpu_id=0, use_device_memory=True, **options)
                else:
                    decoder.reconfigure_decoder(video)
                frames += len(decoder.get_batch_frames_by_index(list(plan.unique)))
            return frames

        shares, wanted = [plans[at::8] for at in range(8)], sum(len(plan.unique) for plan in plans)
        with ThreadPool(8) as threads:
            threads.map(work, shares, chunksize=1)  # warm
            frames, row = measured(lambda: sum(threads.map(work, shares, chunksize=1)), self.setup.repeats)
        rate = len(plans) / row["median_s"]
        says = f"{rate:.1f} samples/s, {frames} of {wanted} frames"
        return {**row, "ok": frames == wanted, "samples_per_s": rate, "says": says}

    def encoding(self) -> Row:
        """The line's encoder, of batches of 16 samples that lie on the device, down to the host."""
        count, parts = 2 if self.setup.small else 96, self.parts("cpu")
        parts.close()  # its workers would start up beside what is measured
        pixels = drawn(16 * N) if self.setup.small else torch.from_numpy(drawn(16 * N)).to(self.setup.device)
        spans = tuple((N * i, N * i + N) for i in range(16))
        batch = FrameBatch(alone("drawn", pixels[:N]).plans * 16, pixels, spans, ({},) * 16)
        for repeats in (1, self.setup.repeats):  # the first one warms
            _, row = measured(lambda: features_of(parts.encoder, itertools.repeat(batch, count)), repeats)
        rate = 16 * count / row["median_s"]
        return {**row, "samples_per_s": rate, "says": f"{rate:.1f} samples/s{clocks(row)}"}

    def end_to_end(self, mode: str) -> Row:
        """From files to features on disk, up to three runs, begun within 15 s; and what bounds it beside."""
        notices, began = list[str](), time.perf_counter()
        gc.collect()
        torch.cuda.empty_cache()  # does nothing where there is no CUDA
        used = self.used_bytes()
        with contextlib.closing(self.line(mode, notices.append)) as line:
            run(line, self.corpus.clips())  # warm
            start = time.perf_counter() - began
            _, row = measured(lambda: run(line, self.corpus.samples()), self.setup.repeats, 15)
        rate = self.corpus.count / row["median_s"]
        row |= {"gpu_mib": row["gpu_mib"] - used / 2**20} if "gpu_mib" in row else {}  # without this process's
        bounds = self.bounds(mode)
        figures = {"samples": self.corpus.count, "samples_per_s": rate, "start_s": start, "all_s": start + TOTAL / rate}
        says = f"{rate:.1f} samples/s"
        if bounds:
            slower = min(bounds, key=lambda name: bounds[name])
            figures["of_bound"] = rate / bounds[slower]
            says += f", {100 * figures['of_bound']:.0f} % of {slower} ({bounds[slower]:.0f})"
        says += f"; {TOTAL} in {figures['all_s']:.0f} s{busy(row)}"
        ok = mode != "nvdec" or not any(NOT_NVDEC in notice for notice in notices)
        return {**row, **figures, "ok": ok, "bounds": bounds, "notices": notices, "says": says}

    def bounds(self, mode: str) -> dict[str, float]:
        """Samples/s of the two halves by themselves; none if one was not measured."""
        sides = {"nvdec": ["NVDEC"], "cpu": ["CPU"]}.get(mode, ["NVDEC", "CPU"])
        rows = [self.record.rows.get(f"e2e: {side} alone", {}) for side in ("encoding", *sides)]
        if not all("samples_per_s" in row for row in rows):
            return {}
        encoding, *decoding = (row["samples_per_s"] for row in rows)
        return {"encoding": encoding, "decoding": sum(decoding)}

    def poisoned(self, kind: str) -> Row:
        """What DALI is given of one file is broken: that costs no other sample a bit, and libav decodes the file."""
        samples = self.corpus.samples()[:64]
        bad, plan, certain = samples[len(samples) // 2], WorkerPool.plan, kind != "bits flipped"

        def poisoned(pool: WorkerPool, given: Iterable[Sample]) -> Iterator[Any]:
            for answer in plan(pool, given):
                if isinstance(answer, Planned) and answer.plan.sample == bad and isinstance(answer.given, Remade):
                    answer = replace(answer, given=answer.given._replace(data=POISONS[kind](answer.given.data)))
                yield answer

        with contextlib.closing(self.hybrid()) as decoder:
            _, clean, _ = decoded(decoder, samples)
            before = Counter(decoder.refused)
            with mock.patch.object(WorkerPool, "plan", poisoned):
                _, found, failed = decoded(decoder, samples)
            refused = Counter(decoder.refused) - before
        same = {name for name in found if np.array_equal(found[name].pixels, clean[name].pixels)}
        ok = not before and len(found) == len(same | {bad.name}) == len(samples)
        ok = ok and (refused == {"DALI failed": 1} or not (certain or refused))
        says = f"{len(same)} of {len(samples)} samples bit for bit as without it; left to libav: {dict(refused)}"
        return {"ok": ok, "refused": refused, "failed": failed, "says": says}

    def changing(self) -> Row:
        """A file in which the size changes is left to libav."""
        file, options = self.root / "changing.ts", gpu_corpus.CODING["h264"][2]
        for size in ((320, 240), (240, 320)):
            encode(self.root / "part.ts", gpu_corpus.pictures(size, 30, 0), "libx264", options, size=size, fps=25)
            with file.open("ab") as joined:
                joined.write((self.root / "part.ts").read_bytes())
        ours, libavs, left_out = self.both([sample_of(file, self.root, self.root, SamplingRule("uniform", N))])
        return {"ok": not ours and len(libavs) == left_out.total() == 1, "says": f"left to libav: {dict(left_out)}"}

    def mix(self) -> Row:
        """Over the whole mix, nothing decoded: the decoders that NVDEC makes in one session, and pictures a sample.

        Of each codec and size two short clips are written, and every clip in small: its size does not tell which
        pictures are needed.
        """
        made, sizes, left_out, count = set[Any](), set[Any](), Counter[str](), 0
        pictures = of_movie = 0.0
        sets = gpu_corpus.corpus(small=False)
        clips = [(clip, MIX[name][0] / TOTAL / len(of_set)) for name, of_set in sets.items() for clip in of_set]
        with contextlib.closing(self.planner()) as pool:
            for clip, share in clips:
                short = Clip(f"{clip.codec}-{clip.size}", 2, clip.size, codec=clip.codec)
                with open_clip(video_of(gpu_corpus.sample(self.root, short))) as opened:
                    _, given = examine(opened, (0, 1))
                if isinstance(given, str):
                    left_out[given] += 1
                    continue
                # DALI's cache is looked up by the coded size, and filled by the one that the stream says is shown.
                coded = (clip.codec, *(-(-side // 16) * 16 for side in given.coded))
                sizes.add(coded)
                count += coded not in made
                made.add((clip.codec, *given.coded))
                small = gpu_corpus.sample(self.root / "small", replace(clip, size=(64, 48)))
                (answer,) = pool.plan([small])
                assert answer.plan is not None
                decoded_of = share * frames_to_decode(answer.plan)
                pictures += decoded_of
                of_movie += decoded_of * clip.size[0] * clip.size[1] / (1920 * 1080)
        says = f"{count} decoders for {len(sizes)} coded sizes; left out: {dict(left_out) or 'none'}; "
        says += f"{pictures:.1f} pictures a sample, as many pixels as {of_movie:.1f} of 1080p"
        figures = {"decoders": count, "coded_sizes": len(sizes), "left_out": left_out}
        figures |= {"pictures_a_sample": pictures, "of_1080p": of_movie}
        return {"ok": count <= len(sizes) and not left_out, **figures, "says": says}


def steps(setup: Setup, record: Record, root: Path) -> Iterator[Step]:
    of = Decoding(setup, record, root)
    for size in SIZES:
        yield Step(3, "decode", f"making decoders: {size[0]}x{size[1]}", 12, partial(of.making, size))
    yield Step(3, "decode", "colours: grey and chart", 10, of.colours)
    yield Step(3, "decode", "frame numbers", 12, of.numbers)
    if setup.small:  # they need no GPU
        yield Step(5, "decode", "the mix", 0, of.mix)
    yield Step(5, "decode", "corpus", 40, of.drawn)
    yield Step(5, "decode", "NVDEC to libav", 15, of.of_corpus)
    yield Step(5, "decode", "the same: colours, turns, repeats", 8, partial(of.of_corpus, is_special=True))
    yield Step(5, "decode", "whole beside trimmed", 30, of.trimmed)
    for pipelines, threads in SIDES[: 1 if setup.small else None]:
        sides = {"pipelines": pipelines, "threads": threads}
        rate = partial(of.rate, partial(of.nvdec, **sides), **sides)
        yield Step(5, "decode", f"NVDEC alone: {pipelines} x {threads}", 14, rate)
    yield Step(5, "decode", "PyNvVideoCodec", 20, of.pynvvideocodec)
    yield Step(6, "e2e", "encoding alone", 25, of.encoding)
    yield Step(6, "e2e", "NVDEC alone", 14, partial(of.rate, of.nvdec))
    yield Step(6, "e2e", "line: nvdec", 40, partial(of.end_to_end, "nvdec"))
    yield Step(6, "e2e", "CPU alone", 14, partial(of.rate, of.pool, workers=cores()))
    for mode in MODES[1:]:
        yield Step(6, "e2e", f"line: {mode}", 40, partial(of.end_to_end, mode))
    for kind in POISONS:
        yield Step(7, "decode", f"poisoned: {kind}", 10, partial(of.poisoned, kind))
    yield Step(7, "decode", "a size that changes", 5, of.changing)


def decoded(decoder: Any, samples: list[Sample], keep: bool = True) -> tuple[list[FramePlan], Frames, Counter[str]]:
    """The plans of what was decoded; its frames, on the host; and what was not, by its reason."""
    plans: list[FramePlan] = []
    found: Frames = {}
    others: Counter[str] = Counter()
    for item in decoder.decode(samples):
        if not isinstance(item, FrameBatch):
            others[item.reason] += 1
            continue
        if item.ready is not None:
            item.ready.synchronize()
        plans += item.plans
        if keep:
            pixels = item.pixels.cpu().numpy() if isinstance(item.pixels, torch.Tensor) else item.pixels
            for plan, (start, stop) in zip(item.plans, item.spans, strict=True):
                found[plan.sample.name] = alone("", pixels[start:stop].copy(), plan)
        item.release()
    return plans, found, others


def arrivals(decoder: Any, samples: Sequence[Sample]) -> list[float]:
    """Seconds until each has come, after the one before; RuntimeError if one is refused."""
    times = [time.perf_counter()]
    for item in decoder.decode(samples):
        if not isinstance(item, FrameBatch):
            raise RuntimeError(f"{item.sample}: {item.reason}")
        if item.ready is not None:
            item.ready.synchronize()
        item.release()
        times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]


def check_frames(ours: Frames, libavs: Frames, left_out: Counter[str]) -> Row:
    """All by NVDEC; the frames that were planned, whose numbers are drawn in; near to libav's, not to those before."""
    shown = {name: tuple(map(gpu_corpus.number_of, batch.pixels)) for name, batch in ours.items()}
    wrong = {name: [shown[name], batch.plans[0].indices] for name, batch in ours.items()}
    wrong = {name: sides for name, sides in wrong.items() if sides[0] != sides[1]}
    near = {name: mean_difference(ours[name].pixels, libavs[name].pixels) for name in ours.keys() & libavs.keys()}
    moving = [name for name in near if len(set(libavs[name].plans[0].indices)) == len(libavs[name].pixels)]
    far = [mean_difference(ours[name].pixels[1:], libavs[name].pixels[:-1]) for name in moving]
    figures = {"wrong": wrong, "left_out": left_out, "differences": near, "to_frame_before": far}
    if not near or not far:
        return {"ok": False, **figures, "says": f"nothing to compare; left out: {dict(left_out)}"}
    most = max(near, key=lambda name: near[name])
    says = f"{len(near)} clips, {len(wrong)} with others than planned; mean difference at most {near[most]:.2f} of 255 "
    says += f"({most}), to the frame before at least {min(far):.1f}; left out: {dict(left_out) or 'none'}"
    ok = not left_out and not wrong and ours.keys() == libavs.keys() and near[most] <= DIFFERENCE < min(far)
    return {"ok": ok, **figures, "says": says}


class Whole:
    """A planner that leaves every packet of a video in what NVDEC is given."""

    def __init__(self, pool: WorkerPool, clips: list[Sample]) -> None:
        self._pool, self._made = pool, dict[int, Remade]()
        self.close = pool.close
        for sample in clips:
            with contextlib.suppress(Unsafe), open_clip(video_of(sample)) as clip:
                self._made[file_of(sample)] = remake(clip, range(clip.frames))

    def plan(self, samples: Iterable[Sample]) -> Iterator[Any]:
        for answer in self._pool.plan(samples):
            if isinstance(answer, Planned) and isinstance(answer.given, Remade):
                made = self._made[file_of(answer.plan.sample)]
                frames = tuple(made.ordinals[index] for index in answer.plan.unique)
                answer = replace(answer, given=made._replace(ordinals=frames))
            yield answer


def file_of(sample: Sample) -> int:
    """The file itself, whichever of its names a sample has."""
    return video_of(sample).stat().st_ino


def video_of(sample: Sample) -> Path:
    assert sample.video is not None
    return local(sample.video)


def frames_to_decode(plan: FramePlan) -> int:
    """Pictures that are decoded for a plan's frames: DALI never seeks, so all of what it is given."""
    return _pictures(video_of(plan.sample), plan.unique)


@cache
def _pictures(video: Path, frames: tuple[int, ...]) -> int:
    with open_clip(video) as clip:
        _, given = examine(clip, frames)
        return len(clip.needed(frames)) if isinstance(given, str) else given.pictures


def measured(work: Callable[[], T], repeats: int, within: float = math.inf) -> tuple[T, Row]:
    """What it returned last, its times and what was seen meanwhile: so often, all begun within so many seconds."""
    runs, end = list[float](), time.perf_counter() + within
    with Monitor() as monitor:
        while not runs or (len(runs) < repeats and time.perf_counter() < end):
            began = time.perf_counter()
            found = work()
            runs.append(time.perf_counter() - began)
    return found, {**timed(runs), **monitor.figures()}


def busy(seen: Row) -> str:
    return "".join(f", {name} {share:.0f} % busy" for name, share in seen["busy"].items())


def run(line: Line, samples: list[Sample]) -> None:
    """Raises RuntimeError if any was not saved."""
    if (count := len(list(saved(line.run(samples))))) != len(samples):
        raise RuntimeError(f"{count} outcomes of {len(samples)} samples")
