"""Does the GPU line do on a GPU what it should, and how far is it from what bounds it?

    PYTHONPATH=. python bench/gpu_check.py [--encode] [--decode] [--e2e] [--out DIRECTORY] [--commit NAME] [--dry-run]

Three parts, all of them unless some are named, each under eight minutes:

    --encode   kernels and towers against their references; images/s, beside a large product of matrices
    --decode   NVDEC's frames against libav's, a poisoned batch; NVDEC given whole files beside trimmed ones;
               frames/s of NVDEC and of the CPU alone
    --e2e      the line from files to features, beside its halves alone and the frames/s there are

The record, `gpu-<time>.jsonl` in --out (default: $OUT, else bench/results), has the conditions in its first line
and then a row a line, each on disk as soon as it is measured; a short table and one JSON line come last. Weights
are drawn from a seed: features mean nothing, and cost what real ones do. `--dry-run` walks through all of it in
small on the CPU, where its figures mean nothing either. Exit code: 1 if a check fails, 3 where there is no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import gpu_corpus
import numpy as np
import numpy.typing as npt
import torch
from gpu_corpus import RULE, TOTAL, Corpus
from monitor import Monitor
from record import RESULTS, ROOT, Record, Row, alternated, cores, rounded, timed
from record import beside as times_beside
from record import conditions as of_machine

import gpupeak
from gpupeak.config import ExtractConfig
from gpupeak.decode.nvdec import examine, nvdec_missing
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.worker import Planned
from gpupeak.encode.gpu.attention import choose_attention
from gpupeak.encode.gpu.device import Cuda, TorchCuda, Work
from gpupeak.encode.gpu.graphs import BUCKETS, EagerRunner, GraphEncoder, GraphRunner, Runner
from gpupeak.encode.kernels import FASTEST, KERNELS, Kernels, compile_kernels
from gpupeak.encode.vit import MEAN, STD, VisionTower, expected_state
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import CLIP_VIT_LARGE, TowerShape
from gpupeak.errors import DeviceError
from gpupeak.features.writer import NpyWriter
from gpupeak.kernels.add_layer_norm import add_layer_norm
from gpupeak.kernels.linear_silu import linear_silu
from gpupeak.kernels.patch_rows import patch_rows
from gpupeak.lines.build import Parts, build, choose_device, cuda_line
from gpupeak.pipeline import Decoder, Encoder, Line
from gpupeak.storage.places import local
from gpupeak.types import Failed, FrameBatch, FramePlan, Sample, SamplingRule
from gpupeak.video.container import open_clip
from gpupeak.video.remake import Remade, Unsafe, remake

Pixels: TypeAlias = "npt.NDArray[np.uint8]"
Of: TypeAlias = "dict[str, npt.NDArray[np.float64]]"

SIZE, N = 224, RULE.n
COSINE, RELATIVE_L2, DIFFERENCE = 0.9999, 5e-3, 2.0  # what fidelity is; the last one of 255
MODES = ("cpu", "nvdec", "hybrid")
SIDES = ((1, 1), (1, 8), (2, 8), (4, 4), (4, 8), (7, 4), (8, 8))  # DALI's pipelines, and the threads of each
DEFAULT, COMPILED = "+".join(("graphs", *FASTEST)), "compiled+patch_rows"  # the first is what the line runs
WAYS = {
    "+".join(("graphs", *names)): names
    for count in range(len(KERNELS) + 1)
    for names in itertools.combinations(KERNELS, count)
} | {COMPILED: ("patch_rows",)}
"""Graphs with the kernels of these names: all combinations, and what torch.compile makes of the rest."""


class HostCuda:
    """The encoder's seam for a dry run, device, stream and event in one: work is done when it is put on a stream."""

    def __init__(self) -> None:
        self._now = time.perf_counter()

    def stream(self) -> Any:
        return self

    pool = query = synchronize = stream

    def record(self) -> HostCuda:
        return HostCuda()

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    pinned = zeros

    def capture(self, stream: object, pool: object, work: Work) -> Work:
        return work

    def run(self, label: str, work: Work) -> None:
        work()

    def wait(self, event: object) -> None: ...

    def elapsed_time(self, later: HostCuda, /) -> float:
        return 1000 * (later._now - self._now)


@dataclass(frozen=True)
class Setup:
    """What is checked, on what, and how much of it; `no_nvdec` says why there is no NVDEC."""

    small: bool
    device: torch.device
    cuda: Cuda
    dtype: torch.dtype
    shape: TowerShape
    buckets: tuple[int, ...]
    names: int
    repeats: int
    no_nvdec: str | None

    def tower(self, dtype: torch.dtype) -> VisionTower:
        state = random_state(0, expected_state(self.shape))
        return VisionTower.from_state(state, self.shape, device=self.device, dtype=dtype)

    def kernels(self, *names: str) -> Kernels:
        """The kernels of these names; the references in a dry run. DeviceError if one is not to be had."""
        if self.small:
            return Kernels()
        lacking: list[str] = []
        kernels = compile_kernels(names, self.device, self.shape, lacking.append)
        if lacking:
            raise DeviceError("; ".join(lacking))
        return kernels

    def runner(
        self, tower: VisionTower, names: Sequence[str], buckets: Sequence[int] = (), *, compile: bool = False
    ) -> GraphRunner:
        """Graphs of the tower with the kernels of these names, with the attention that the line takes."""
        buckets = buckets or self.buckets
        attention = choose_attention(tower)
        eager = EagerRunner(tower, self.cuda, max(buckets), self.kernels(*names), attention, compile=compile)
        return GraphRunner(eager, buckets)

    def nvdec(self, planner: Any = None, **options: Any) -> Any:
        from gpupeak.decode.dali import DaliDecoder

        options = {"pipelines": 1, "threads": 1} if self.small else options
        return DaliDecoder(N, SIZE, planner or self.pool(held=0), self.device, **options)

    def pool(self, held: int = 96) -> WorkerPool:
        return WorkerPool(1 if self.small else cores(), N, SIZE, held=held)

    def parts(self, mode: str) -> Parts:
        """The parts of the line, in this process."""
        if not self.small:
            config = ExtractConfig(weights="random:0")
            return cuda_line(config, CLIP_VIT_LARGE, N, "cuda:0", mode, lambda text: None)
        from gpupeak.decode.hybrid import HybridDecoder

        eager = EagerRunner(self.tower(self.dtype), self.cuda, max(self.buckets))
        encoder = GraphEncoder(GraphRunner(eager, self.buckets), n=N)
        decoder: Decoder = self.pool()
        if mode != "cpu":
            decoder = HybridDecoder(self.nvdec(), decoder, mode, lambda text: None, trial=2)
        return Parts(decoder, encoder, NpyWriter(), "cpu", Path("cache"), 0)  # nothing is fetched

    def line(self, mode: str, tell: Callable[[str], None]) -> Line:
        """The line as a user gets it: on a GPU, in a supervised process of its own."""
        if self.small:
            return self.parts(mode)
        return build(ExtractConfig(device="cuda:0", decoder=mode, weights="random:0"), CLIP_VIT_LARGE, N, tell)


def on_gpu() -> Setup:
    device, shape = torch.device("cuda:0"), CLIP_VIT_LARGE.tower
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # as on the line
    assert shape is not None
    return Setup(False, device, TorchCuda(device), torch.float16, shape, BUCKETS, gpu_corpus.NAMES, 3, nvdec_missing())


def in_small() -> Setup:
    """DALI on the CPU in NVDEC's place, a tower of two blocks."""
    shape = TowerShape(size=SIZE, patch=56, width=64, layers=2, heads=2, dim=16)
    no_dali = None if find_spec("nvidia") and find_spec("nvidia.dali") else "DALI is not installed"
    return Setup(True, torch.device("cpu"), HostCuda(), torch.float32, shape, (8, 16), 8, 1, no_dali)


def encode(record: Record, setup: Setup) -> None:
    ceiling = record.row("ceiling: product of matrices", product, setup).get("flop_per_s", float("nan"))
    record.row("ceiling: copy on the device", copied, setup)
    tower, most = setup.tower(setup.dtype), max(setup.buckets)
    record.row("attention", lambda: {"says": choose_attention(tower).name})
    record.row("kernel: patch_rows", check_patch_rows, setup, tower)
    record.row("kernel: add_layer_norm", check_add_layer_norm, setup)
    record.row("kernel: linear_silu", check_linear_silu, setup)
    towers = Towers(setup, drawn(2 * most), ceiling)
    record.row("fidelity: open_clip", towers.add_open_clip)
    record.row("fidelity: eager", towers.add, "eager", lambda: EagerRunner(tower, setup.cuda, most))
    for name in ("graphs", DEFAULT):
        record.row(f"fidelity: {name}", towers.add, name, partial(setup.runner, tower, WAYS[name]))
    rates = {bucket: record.row(f"images/s at {bucket}", towers.rate, bucket) for bucket in setup.buckets}
    best = max(rates, key=lambda bucket: rates[bucket].get("images_per_s", {}).get(DEFAULT, 0))
    for name in (name for name in WAYS if name not in towers.ways):
        make = partial(setup.runner, tower, WAYS[name], (best,), compile=name == COMPILED)
        record.row(f"fidelity: {name}", towers.add, name, make, (best,))
    record.row("images/s at the best", towers.rate, best)


def seconds_of(setup: Setup, work: Work, repeats: int = 20) -> list[float]:
    """On a stream of its own, after what other streams have still to do, its inputs perhaps; three runs warm up."""
    if setup.device.type == "cuda":
        torch.cuda.synchronize()
    stream = setup.cuda.stream()
    for _ in range(3):
        stream.run("warm up", work)
    events = [stream.record()]
    for _ in range(2 if setup.small else repeats):
        stream.run("timed", work)
        events.append(stream.record())
    events[-1].synchronize()
    return [began.elapsed_time(ended) / 1000 for began, ended in itertools.pairwise(events)]


def product(setup: Setup) -> Row:
    """Of random numbers: zeros are faster."""
    side = 256 if setup.small else 8192
    a, b = (torch.randn(side, side, device=setup.device, dtype=setup.dtype) for _ in range(2))
    row = timed(seconds_of(setup, partial(torch.mm, a, b, out=torch.empty_like(a)), repeats=30))
    rate = 2 * side**3 / row["median_s"]
    return {**row, "side": side, "flop_per_s": rate, "says": f"{rate / 1e12:.3g} TFLOP/s, {side} a side, {setup.dtype}"}


def copied(setup: Setup) -> Row:
    count = 1 << (20 if setup.small else 32)
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=setup.device)
    row = timed(seconds_of(setup, partial(torch.empty_like(source).copy_, source)))
    rate = 2 * count / row["median_s"]
    return {**row, "bytes": count, "bytes_per_s": rate, "says": f"{rate / 1e12:.3g} TB/s, read and written"}


def beside(setup: Setup, works: list[Work], count: int, ok: bool, error: float) -> Row:
    """The time of a kernel and of its reference; `count` bytes have to be read and written."""
    row, slow = (timed(seconds_of(setup, work)) for work in works)
    says = f"{1e6 * row['median_s']:.0f} us, {count / row['median_s'] / 1e12:.3g} TB/s; "
    says += f"reference {1e6 * slow['median_s']:.0f} us; relative L2 {error:.1e}"
    return {**row, "reference": slow, "bytes": count, "ok": ok, "relative_l2": error, "says": says}


def check_patch_rows(setup: Setup, tower: VisionTower) -> Row:
    """Bit for bit, for images out of order."""
    count = max(setup.buckets)
    pixels = torch.randint(0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8, device=setup.device)
    images = torch.randperm(count).int().to(setup.device)
    found = torch.full((count * setup.shape.grid**2, tower.row), float("nan"), dtype=setup.dtype, device=setup.device)
    wanted = found.clone()
    kernel = partial(setup.kernels("patch_rows").patch_rows, pixels, images, tower.scale_shift, found)
    reference = partial(patch_rows, pixels, images, tower.scale_shift, wanted)
    kernel()
    reference()
    error = float((found - wanted).double().norm() / wanted.double().norm())
    return beside(setup, [kernel, reference], pixels.nbytes + found.nbytes, torch.equal(found, wanted), error)


def check_add_layer_norm(setup: Setup) -> Row:
    """The sum bit for bit, its LayerNorm against float64."""
    width, random = setup.shape.width, partial(torch.randn, device=setup.device, dtype=setup.dtype)
    rows = max(setup.buckets) * (setup.shape.grid**2 + 1)
    residual, delta, weight, bias = random(rows, width), random(rows, width), random(width), random(width)
    wanted, kernel = residual + delta, setup.kernels("add_layer_norm").add_layer_norm
    exact = torch.nn.functional.layer_norm(wanted.double(), (width,), weight.double(), bias.double(), 1e-5)
    total, normed = kernel(residual.clone(), delta.clone(), weight, bias, 1e-5)
    error = float((normed - exact).norm() / exact.norm())
    # The kernel works in place: from run to run the numbers grow, which takes no longer.
    works: list[Work] = [partial(work, residual, delta, weight, bias, 1e-5) for work in (kernel, add_layer_norm)]
    return beside(setup, works, 4 * total.nbytes, torch.equal(total, wanted) and error < 1e-3, error)


def check_linear_silu(setup: Setup) -> Row:
    """Against float64; one rounding to fp16 is 2e-4 off, the reference's two 3e-4."""
    width, rows = setup.shape.width, max(setup.buckets) * (setup.shape.grid**2 + 1)
    random = partial(torch.randn, device=setup.device, dtype=setup.dtype)
    x, weight, bias = random(rows, width), random(4 * width, width) / width**0.5, random(4 * width)
    kernel, some = setup.kernels("linear_silu").linear_silu, slice(None, 4096)
    found = kernel(x, weight, bias)[some].double()
    exact = torch.nn.functional.silu(x[some].double() @ weight.double().T + bias.double())
    error = float((found - exact).norm() / exact.norm())
    works: list[Work] = [partial(work, x, weight, bias) for work in (kernel, linear_silu)]
    row, slow = (timed(seconds_of(setup, work)) for work in works)
    rate, slow_rate = (2 * rows * 4 * width**2 / each["median_s"] for each in (row, slow))
    says = f"{rate / 1e12:.3g} TFLOP/s, reference {slow_rate / 1e12:.3g}; relative L2 {error:.1e}"
    return {**row, "reference": slow, "flop_per_s": rate, "ok": error < 1e-3, "relative_l2": error, "says": says}


def drawn(count: int) -> Pixels:
    """Four neighbouring frames each of many clips, `[count, 224, 224, 3]`."""
    return np.stack([picture for seed in range(count // 4) for picture in gpu_corpus.pictures((SIZE, SIZE), 4, seed)])


class Towers:
    """Ways to go from pixels on the device to features there, held against float32 and then each other."""

    def __init__(self, setup: Setup, pixels: Pixels, ceiling: float) -> None:
        self.setup, self.pixels, self.ceiling = setup, pixels, ceiling
        self.given = torch.from_numpy(pixels).to(setup.device)
        self.ways: dict[str, Callable[[int], Work]] = {}
        torch.backends.cuda.matmul.allow_tf32 = False
        tower = setup.tower(torch.float32)
        with torch.inference_mode():
            exact = [tower(chunk).cpu() for chunk in torch.split(self.given, 32)]
        self.wanted = torch.cat(exact).double().numpy()

    def add_open_clip(self) -> Row:
        """open_clip's own module, with the same weights."""
        from open_clip.transformer import QuickGELU, VisionTransformer

        from gpupeak.encode.openclip import OpenClipTower

        shape = self.setup.shape
        sizes = {"image_size": SIZE, "patch_size": shape.patch, "width": shape.width, "layers": shape.layers}
        sizes |= {"heads": shape.heads, "output_dim": shape.dim}
        with torch.device("meta"):
            visual = VisionTransformer(**sizes, mlp_ratio=4.0, act_layer=QuickGELU)
        visual.load_state_dict(random_state(0, expected_state(shape)), strict=True, assign=True)
        tower = OpenClipTower(visual, MEAN, STD, device=self.setup.device, dtype=self.setup.dtype)

        @torch.inference_mode()
        def encode(images: int) -> torch.Tensor:
            features: torch.Tensor = tower(self.given[:images])
            return features

        of = self.fidelity(encode(16).cpu().numpy())
        self.ways["open_clip"] = lambda images: partial(encode, images)
        return {**worst(of), "says": described(worst(of))}

    def add(self, name: str, make: Callable[[], Runner], buckets: tuple[int, ...] = ()) -> Row:
        """Every bucket full and one image short of it, from the host and the device; and what must not pass."""
        began = time.perf_counter()
        runner, patches = make(), self.setup.shape.grid**2
        patch = runner.tower.kernels.patch_rows
        built, most = time.perf_counter() - began, runner.largest
        images = torch.from_numpy(np.arange(most, dtype=np.int32)).to(self.setup.device)
        encoder = GraphEncoder(runner, n=most)

        def of(pixels: Any) -> Of:
            return self.fidelity(features_of(encoder, [alone("drawn", pixels)])["drawn"])

        ofs = []
        for bucket in buckets or self.setup.buckets:
            ofs += [of(self.given[:bucket]), of(self.pixels[:bucket]), of(self.pixels[: bucket - 1])]
        least = {key: (min if "cosine" in key else max)(worst(each)[key] for each in ofs) for key in ofs[0]}
        controls = {
            "neighbouring frame": of(self.pixels[1 : most + 1]),
            "swapped channels": of(np.ascontiguousarray(self.pixels[:most, ..., ::-1])),
            "picture shifted by a row": of(np.roll(self.pixels[:most], 1, axis=1)),
            "features shifted by a row": self.fidelity(np.roll(self.wanted, 1, axis=0)),
        }
        passing = {control: int(accurate(each).sum()) for control, each in controls.items()}

        def way(count: int) -> Work:
            def work() -> None:
                rows = runner.rows[: count * patches]
                patch(self.given[:count], images[:count], runner.tower.scale_shift, rows)
                runner.run(count)

            return work

        self.ways[name] = way
        ok = all(accurate(each).all() for each in ofs) and not any(passing.values())
        says = f"{described(least)}; controls passing: {sum(passing.values())}"
        return {**least, "ok": ok, "controls_passing": passing, "built_s": built, "says": says}

    def fidelity(self, found: npt.NDArray[Any]) -> Of:
        """Of features of the first frames."""
        return fidelity(found, self.wanted[: len(found)], self.wanted.mean(0))

    def rate(self, bucket: int) -> Row:
        """Every way in turn, five times: what drifts, drifts for all of them."""
        works = {name: way(bucket) for name, way in self.ways.items()}
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(1 if self.setup.small else 5):
            for name, work in works.items():
                seconds[name] += seconds_of(self.setup, work, repeats=6)
        rates = {name: bucket / statistics.median(each) for name, each in seconds.items()}
        shares = {name: rate * flop_per_image(self.setup.shape) / self.ceiling for name, rate in rates.items()}
        says = "; ".join(f"{name} {rate:.0f} ({100 * shares[name]:.0f} %)" for name, rate in rates.items())
        timings = {name: timed(each) for name, each in seconds.items()}
        return {"images": bucket, "images_per_s": rates, "of_ceiling": shares, "timings": timings, "says": says}


def flop_per_image(shape: TowerShape) -> float:
    """Of the whole tower's products: 162 GFLOP for ViT-L/14. The last block, for one token only, saves 3.5 % of it."""
    patches, width = shape.grid**2, shape.width
    block = 12 * (patches + 1) * width**2 + 2 * (patches + 1) ** 2 * width
    return 2.0 * (shape.layers * block + patches * 3 * shape.patch**2 * width)


def fidelity(found: npt.NDArray[Any], wanted: npt.NDArray[Any], corpus_mean: npt.NDArray[Any]) -> Of:
    """Of each frame the cosine and the relative L2, as they are and less the mean, which is most of a random one."""
    of: Of = {}
    for name, mean in (("", 0 * corpus_mean), ("centred_", corpus_mean)):
        a, b = found.astype(np.float64) - mean, wanted - mean
        length = np.linalg.norm(b, axis=1)
        of[f"{name}cosine"] = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * length)
        of[f"{name}relative_l2"] = np.linalg.norm(a - b, axis=1) / length
    return of


def accurate(of: Of) -> npt.NDArray[np.bool_]:
    """Which frames are as near to the reference as they have to be, by all four measures."""
    near = (of["cosine"] >= COSINE) & (of["relative_l2"] <= RELATIVE_L2)
    return near & (of["centred_cosine"] >= COSINE) & (of["centred_relative_l2"] <= RELATIVE_L2)


def worst(of: Of) -> dict[str, float]:
    return {name: float(values.min() if "cosine" in name else values.max()) for name, values in of.items()}


def described(least: dict[str, float]) -> str:
    cosine, distance, centred_cosine, centred_distance = least.values()
    return f"cosine {cosine:.6f}, L2 {distance:.1e}; less the mean {centred_cosine:.6f}, {centred_distance:.1e}"


def alone(name: str, pixels: Any, plan: FramePlan | None = None) -> FrameBatch:
    """A batch of one sample; without a plan, of one that was drawn."""
    n = len(pixels)
    sample = Sample("bench", name, None, (), SamplingRule("uniform", n), Path(name))
    return FrameBatch((plan or FramePlan(sample, tuple(range(n)), n, "drawn"),), pixels, ((0, n),), ({},))


def features_of(encoder: Encoder, batches: Iterable[FrameBatch]) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = {}
    for batch in encoder.encode(batches):
        if isinstance(batch, Failed):
            raise RuntimeError(f"{batch.sample}: {batch.reason}")
        for plan, (start, stop) in zip(batch.plans, batch.spans, strict=True):
            found[plan.sample.name] = batch.features[start:stop].copy()
        batch.release()
    return found


def make_corpus(corpus: Corpus) -> Row:
    began, small = time.perf_counter(), ["--small"] if corpus.small else []
    command = [sys.executable, gpu_corpus.__file__, str(corpus.root), *small]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    made: Row = json.loads(done.stdout)
    rate, took = 8e-6 * made["bytes"] / made["seconds"], time.perf_counter() - began
    says = f"{made['clips']} clips, {made['seconds']:.0f} s at {rate:.2g} Mbit/s, drawn in {took:.0f} s"
    return {**made, "mbit_per_s": rate, "says": says}


def decode(record: Record, setup: Setup, corpus: Corpus) -> None:
    record.row("CPU alone", cpu_alone, setup, corpus)
    record.row("decoders to be made", count_decoders, corpus)
    if setup.no_nvdec:
        record.row("NVDEC", lambda: {"says": f"missing: {setup.no_nvdec}"})
        return
    found: dict[str, dict[str, FrameBatch]] = {}
    for mode in ("cpu", "nvdec"):
        record.row(f"frames of {mode}", check_ordinals, setup, corpus, mode, found)
    record.row("NVDEC to libav", check_frames, found, corpus.clips())
    record.row("the same: colours, turns, repeats", check_frames, found, corpus.clips(is_special=True))
    record.row("features: NVDEC to libav", check_features, setup, corpus, found)
    record.row("a poisoned batch", check_poisoned, setup, corpus)
    record.row("NVDEC: trimmed", check_trimmed, setup, corpus)
    for pipelines, threads in SIDES[: 1 if setup.small else None]:
        options = {"pipelines": pipelines, "threads": threads}
        record.row(f"NVDEC alone: {pipelines} x {threads}", nvdec_alone, setup, corpus, **options)


def decoded(items: Iterable[Any], keep: bool = True) -> tuple[list[FramePlan], dict[str, FrameBatch], Counter[str]]:
    """The plans of what was decoded; its frames, on the host; and what was not, by its reason."""
    plans: list[FramePlan] = []
    found: dict[str, FrameBatch] = {}
    others: Counter[str] = Counter()
    for item in items:
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


def check_ordinals(setup: Setup, corpus: Corpus, mode: str, found: dict[str, dict[str, FrameBatch]]) -> Row:
    """Are the frames those that were planned? Their numbers are drawn into them."""
    samples = corpus.clips() + corpus.clips(is_special=True)
    with contextlib.closing(setup.parts(mode).decoder) as decoder:
        _, found[mode], others = decoded(decoder.decode(samples))
        refused = getattr(decoder, "refused", {})
    planned = {name: batch.plans[0].indices for name, batch in found[mode].items()}
    shown = {name: tuple(map(gpu_corpus.number_of, batch.pixels)) for name, batch in found[mode].items()}
    wrong = {name: [shown[name], planned[name]] for name in shown if shown[name] != planned[name]}
    says = f"{len(shown)} clips, {len(wrong)} with others than planned; left to libav: {dict(refused) or 'none'}"
    ok = len(shown) == len(samples) and not wrong
    return {"ok": ok, "wrong": wrong, "failed": others, "refused": refused, "says": says}


def check_frames(found: dict[str, dict[str, FrameBatch]], samples: list[Sample]) -> Row:
    """Near to libav's, and not to the frames before."""
    near, far = {}, []
    for sample in samples:
        ours, libavs = (found[mode][sample.name].pixels for mode in ("nvdec", "cpu"))
        near[sample.name] = mean_difference(ours, libavs)
        if len(set(found["cpu"][sample.name].plans[0].indices)) == N:
            far.append(mean_difference(ours[1:], libavs[:-1]))
    most = max(near, key=lambda name: near[name])
    on_nvdec = [difference for difference in near.values() if difference]  # none is what libav decoded
    says = f"mean difference {statistics.mean(on_nvdec):.2f} of 255, most {near[most]:.2f} ({most}); "
    says += f"to the frame before at least {min(far):.1f}"
    return {"ok": near[most] <= DIFFERENCE < min(far), "differences": near, "to_frame_before": min(far), "says": says}


def check_features(setup: Setup, corpus: Corpus, found: dict[str, dict[str, FrameBatch]]) -> Row:
    """Straight from NVDEC to the encoder: as of the same frames seen by the host; and how near to libav's."""
    samples, parts = corpus.clips() + corpus.clips(is_special=True), setup.parts("nvdec")
    with contextlib.closing(parts.decoder) as decoder:
        batches = (item for item in decoder.decode(samples) if isinstance(item, FrameBatch))
        straight = features_of(parts.encoder, batches)
    others = [features_of(parts.encoder, found[mode].values()) for mode in ("nvdec", "cpu")]
    ours, seen, libavs = (np.concatenate([of[sample.name] for sample in samples]) for of in (straight, *others))
    mean = libavs.mean(0, dtype=np.float64)
    same, near = fidelity(ours, seen, mean), fidelity(ours, libavs, mean)
    says = f"{described(worst(near))}; handed over: {worst(same)['cosine']:.6f}"
    return {"ok": bool(accurate(same).all()), "to_libav": worst(near), "handed_over": worst(same), "says": says}


def check_poisoned(setup: Setup, corpus: Corpus) -> Row:
    """What DALI is given of one file is no video: libav decodes that one, and not one other frame changes."""
    samples = [sample for sample in corpus.samples() if sample.video and local(sample.video).suffix == ".mp4"][:64]
    bad, plan, batches = samples[len(samples) // 2], WorkerPool.plan, []

    def poisoned(pool: WorkerPool, given: Iterable[Sample]) -> Iterator[Any]:
        for answer in plan(pool, given):
            if isinstance(answer, Planned) and answer.plan.sample == bad and isinstance(answer.given, Remade):
                answer = replace(answer, given=answer.given._replace(data=b"no video" * 100))
            yield answer

    def counted(items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            batches.append(len(item.plans) if isinstance(item, FrameBatch) else 0)
            yield item

    with contextlib.closing(setup.parts("nvdec").decoder) as decoder:
        _, clean, _ = decoded(decoder.decode(samples))
        before = Counter(getattr(decoder, "refused", {}))
        with mock.patch.object(WorkerPool, "plan", poisoned):
            _, found, failed = decoded(counted(decoder.decode(samples)))
        refused = Counter(getattr(decoder, "refused", {})) - before
    same = {name for name in found if np.array_equal(found[name].pixels, clean[name].pixels)}
    ok = len(found) == len(same | {bad.name}) == len(samples) and refused == {"DALI failed": 1}
    says = f"{len(same)} of {len(samples)} samples bit for bit as without it; left to libav: {dict(refused)}"
    return {"ok": ok, "batches": batches, "refused": refused, "failed": failed, "says": says}


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


def check_trimmed(setup: Setup, corpus: Corpus) -> Row:
    """NVDEC alone, given whole videos and trimmed ones: the same frames bit for bit, and which is decoded faster?"""
    clips = corpus.clips() + corpus.clips(is_special=True)
    with contextlib.ExitStack() as stack:
        planners = {"whole": Whole(setup.pool(held=0), clips), "trimmed": None}
        sides = {side: stack.enter_context(contextlib.closing(setup.nvdec(each))) for side, each in planners.items()}
        (_, whole, others), (_, ours, left_out) = (decoded(decoder.decode(clips)) for decoder in sides.values())
        files = {file_of(sample) for sample in clips if sample.name in whole.keys() & ours.keys()}
        samples = [s for s in corpus.samples(every=1 if setup.small else 3) if file_of(s) in files]
        works = {side: partial(run_through, decoder, samples) for side, decoder in sides.items()}
        row = times_beside("whole", alternated(works, setup.repeats))
    difference = max(mean_difference(ours[name].pixels, whole[name].pixels) for name in whole.keys() & ours.keys())
    ok, ratio = difference == 0 and left_out == others, row["ratios"]["trimmed"]
    wins = "trimmed" if ratio["most"] < 1 else "whole" if ratio["least"] > 1 else "neither"
    rates = {side: len(samples) / row["seconds"][side]["median_s"] for side in sides}
    says = f"{wins} wins: {rates['whole']:.1f} samples/s whole, {rates['trimmed']:.1f} trimmed; "
    figures = {"samples": len(samples), "samples_per_s": rates, "difference": difference, "wins": wins}
    return {**row, **figures, "ok": ok, "left_out": left_out, "says": f"{says}difference {difference:.2f}"}


def run_through(decoder: Any, samples: list[Sample]) -> None:
    decoded(decoder.decode(samples), keep=False)


def count_decoders(corpus: Corpus) -> Row:
    """How many of NVDEC's decoders would one session make over the mix: two short clips of each codec and size."""
    kinds = {(clip.codec, clip.size) for of_set in gpu_corpus.corpus(small=False).values() for clip in of_set}
    made, sizes, left_out, count = set[Any](), set[Any](), Counter[str](), 0
    (corpus.root / "clips").mkdir(exist_ok=True)
    for number, (codec, size) in enumerate(sorted(kinds) * 2):
        clip = gpu_corpus.Clip(f"size-{number}", 2, size, codec=codec)
        gpu_corpus.write_clip(corpus.root, clip)
        with open_clip(gpu_corpus.clip_file(corpus.root, clip)) as opened:
            _, given = examine(opened, (0, 1))
        if isinstance(given, str):
            left_out[given] += 1
            continue
        # DALI's cache is looked up by the coded size, and filled by the one that the stream says is shown.
        coded = (codec, *(-(-side // 16) * 16 for side in given.coded))
        sizes.add(coded)
        count += coded not in made
        made.add((codec, *given.coded))
    says = (
        f"{count} for {2 * len(kinds)} clips of {len(kinds)} sizes, {len(sizes)} as coded; left out: {dict(left_out)}"
    )
    return {"ok": count <= len(sizes), "decoders": count, "coded_sizes": len(sizes), "left_out": left_out, "says": says}


def file_of(sample: Sample) -> int:
    """The file itself, whichever of its names a sample has."""
    return video_of(sample).stat().st_ino


def video_of(sample: Sample) -> Path:
    assert sample.video is not None
    return local(sample.video)


def mean_difference(ours: Any, theirs: Any) -> float:
    """Of 255."""
    return float(np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16)).mean())


def frames_to_decode(plan: FramePlan) -> int:
    """Pictures that are decoded for a plan's frames: DALI never seeks, so all of what it is given."""
    return _pictures(video_of(plan.sample), plan.unique)


@cache
def _pictures(video: Path, frames: tuple[int, ...]) -> int:
    with open_clip(video) as clip:
        _, given = examine(clip, frames)
        return len(clip.needed(frames)) if isinstance(given, str) else given.pictures


def decoding_rate(setup: Setup, corpus: Corpus, decoder: Any, **conditions: Any) -> Row:
    """Of a third of the samples, every batch given back at once: up to three times, begun within 10 s."""
    samples, runs = corpus.samples(every=1 if setup.small else 3), list[float]()
    with contextlib.closing(decoder):
        decoded(decoder.decode(corpus.clips()), keep=False)  # warm
        end = time.perf_counter() + 10
        with Monitor() as monitor:
            while len(runs) < setup.repeats and time.perf_counter() < end:
                began = time.perf_counter()
                plans, _, others = decoded(decoder.decode(samples), keep=False)
                runs.append(time.perf_counter() - began)
    took, frames, seen = statistics.median(runs), sum(map(frames_to_decode, plans)), monitor.figures()
    rates = {"samples_per_s": len(plans) / took, "frames_per_s": frames / took, "frames_a_sample": frames / len(plans)}
    says = f"{rates['samples_per_s']:.1f} samples/s, {rates['frames_per_s']:.0f} frames/s{busy(seen)}"
    return {**conditions, **timed(runs), **rates, "samples": len(samples), "left_out": others, **seen, "says": says}


def decode_only(setup: Setup, corpus: Corpus, mode: str) -> Row:
    return decoding_rate(setup, corpus, setup.parts(mode).decoder)


def busy(seen: Row) -> str:
    return "".join(f", {name} {share:.0f} % busy" for name, share in seen["busy"].items())


def cpu_alone(setup: Setup, corpus: Corpus) -> Row:
    return decoding_rate(setup, corpus, setup.pool(), workers=cores())


def nvdec_alone(setup: Setup, corpus: Corpus, **options: int) -> Row:
    """Of what NVDEC takes; the rest is left out."""
    return decoding_rate(setup, corpus, setup.nvdec(**options), **options)


def e2e(record: Record, setup: Setup, corpus: Corpus) -> None:
    modes = ("cpu",) if setup.no_nvdec else MODES
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where there is no CUDA
    for mode in (*modes, "auto"):  # first, while this process holds as little as it can on the GPU
        record.row(f"line: {mode}", line_rate, setup, corpus, mode)
    record.row("encoding alone", encoding_rate, setup)
    record.row("CPU alone", cpu_alone, setup, corpus)
    if setup.no_nvdec:
        record.row("NVDEC", lambda: {"says": f"missing: {setup.no_nvdec}"})
    else:
        record.row("NVDEC alone", nvdec_alone, setup, corpus)
    for mode in modes:
        record.row(f"decoding alone: {mode}", decode_only, setup, corpus, mode)
        record.row(f"of its bounds: {mode}", of_bounds, record.rows, mode)


def line_rate(setup: Setup, corpus: Corpus, mode: str) -> Row:
    """From files to features on disk: up to three runs, begun within 15 s."""
    runs, notices, began = list[float](), list[str](), time.perf_counter()
    with contextlib.closing(setup.line(mode, notices.append)) as line:
        start = time.perf_counter() - began
        run(line, corpus.clips())  # warm
        end = time.perf_counter() + 15
        with Monitor() as monitor:
            while len(runs) < setup.repeats and time.perf_counter() < end:
                runs.append(run(line, corpus.samples()))
    rate, seen = corpus.count / statistics.median(runs), monitor.figures()
    says = f"{rate:.1f} samples/s, started in {start:.1f} s: {TOTAL} in {start + TOTAL / rate:.0f} s by extrapolation"
    figures = {"samples": corpus.count, "samples_per_s": rate, "start_s": start, "all_s": start + TOTAL / rate}
    return {**timed(runs), **figures, **seen, "notices": notices, "says": says + busy(seen)}


def run(line: Line, samples: list[Sample]) -> float:
    """Seconds for all of them; raises if any was not saved."""
    began = time.perf_counter()
    outcomes = list(line.run(samples))
    took = time.perf_counter() - began
    for outcome in outcomes:
        if isinstance(outcome, Failed):
            raise RuntimeError(f"{outcome.sample}: {outcome.stage}: {outcome.reason}")
    if len(outcomes) != len(samples):
        raise RuntimeError(f"{len(outcomes)} outcomes of {len(samples)} samples")
    return took


def encoding_rate(setup: Setup) -> Row:
    """Of batches of 16 samples that lie on the device, down to the host."""
    parts, count = setup.parts("cpu"), 2 if setup.small else 96
    parts.close()  # its workers would start up beside what is measured
    pixels, spans = torch.from_numpy(drawn(16 * N)).to(setup.device), tuple((N * i, N * i + N) for i in range(16))
    plans = alone("drawn", pixels[:N]).plans * 16
    batch = FrameBatch(plans, pixels.numpy() if setup.small else pixels, spans, ({},) * 16)
    runs = []
    with Monitor() as monitor:
        for _ in range(1 + setup.repeats):  # the first one warms
            began = time.perf_counter()
            features_of(parts.encoder, itertools.repeat(batch, count))
            runs.append(time.perf_counter() - began)
    rate, seen = 16 * count / statistics.median(runs[1:]), monitor.figures()
    return {**timed(runs[1:]), "samples_per_s": rate, **seen, "says": f"{rate:.1f} samples/s{busy(seen)}"}


def of_bounds(rows: dict[str, Row], mode: str) -> Row:
    """The line beside the slower of its halves, and beside the frames that NVDEC and the CPU can decode together."""
    names = (f"e2e: line: {mode}", f"e2e: decoding alone: {mode}", "e2e: encoding alone")
    sides = [rows[name] for name in ("e2e: CPU alone", "e2e: NVDEC alone") if name in rows]
    if any("samples_per_s" not in row for row in (*sides, *(rows[name] for name in names))):
        return {"says": "left out: not all of it was measured"}
    line, decoding, encoding = (rows[name]["samples_per_s"] for name in names)
    bound, slower = sum(side["frames_per_s"] for side in sides) / sides[0]["frames_a_sample"], min(decoding, encoding)
    says = f"{100 * line / slower:.0f} % of the slower half, {100 * line / bound:.0f} % of {bound:.1f} samples/s"
    return {"of_slower_half": line / slower, "of_frames": line / bound, "frames_bound": bound, "says": says}


def targets(rows: dict[str, Row]) -> dict[str, tuple[float, str, float]]:
    """What is to be reached on one H200, as far as it was measured: figure, comparison, limit."""
    found: dict[str, tuple[float, str, float]] = {}
    best = rows.get("encode: images/s at the best", {}).get("images_per_s", {})
    if DEFAULT in best:
        found["encoder, images/s"] = best[DEFAULT], ">=", 3400
        for name, limit in (("open_clip", 1.3), (COMPILED, 1.0)):
            if name in best:
                found[f"encoder, over {name}"] = best[DEFAULT] / best[name], ">=", limit
    lines = {mode: rows[f"e2e: line: {mode}"] for mode in MODES if "all_s" in rows.get(f"e2e: line: {mode}", {})}
    if lines:
        mode = min(lines, key=lambda mode: lines[mode]["all_s"])
        line, bounds = lines[mode], rows.get(f"e2e: of its bounds: {mode}", {})
        found[f"{mode}, {TOTAL} clips, s"] = line["all_s"], "<", 60
        for key in bounds.keys() & {"of_slower_half", "of_frames"}:
            found[f"{mode}, {key}"] = bounds[key], ">=", 0.85
        found[f"{mode}, host memory, end over a third"] = line["host_mib"][1] / line["host_mib"][0], "<", 1.05
        if "gpu_mib" in line:
            found[f"{mode}, GPU memory, GiB"] = line["gpu_mib"] / 1024, "<", 16
    return found


def conditions(setup: Setup, commit: str | None) -> Row:
    packages = ("torch", "triton", "nvidia-dali-cuda130", "cupy-cuda13x", "av", "open_clip_torch", "numpy")
    gpu = None if setup.small else torch.cuda.get_device_properties(setup.device)
    clips = [clip for of_set in gpu_corpus.corpus(setup.small).values() for clip in of_set]
    return {
        "dry_run": setup.small,
        "checkout": str(Path(gpupeak.__file__).parents[1]),
        **of_machine(packages, commit),
        "cuda": torch.version.cuda,
        "gpu": gpu and f"{gpu.name}, {gpu.multi_processor_count} multiprocessors, {gpu.total_memory / 2**30:.0f} GiB",
        "nvdec": setup.no_nvdec or ("DALI on the CPU in its place" if setup.small else "there"),
        "weights": "random:0, drawn: features mean nothing",
        "names": setup.names,
        "clips": [f"{c.name}: {c.codec}, {c.size[0]}x{c.size[1]}, {c.frames} frames at {c.fps}/s" for c in clips],
        "coding": {codec: gpu_corpus.CODING[codec] for codec in sorted({clip.codec for clip in clips})},
        "buckets": setup.buckets,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Does the GPU line do what it should, and how fast?")
    parts = ("encode", "decode", "e2e")
    for part in parts:
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="all of it in small, on the CPU")
    parser.add_argument("--out", type=Path, help="the directory of the record (default: $OUT, else bench/results)")
    parser.add_argument("--commit", help="what is measured, where there is no git to ask")
    options = parser.parse_args()
    if not options.dry_run:
        try:
            choose_device("cuda:0")
        except DeviceError as error:
            print(f"{error}; --dry-run goes through this check in small")
            return error.exit_code
    else:
        torch.set_num_threads(1)
        torch.compiler.set_stance("force_eager")  # compiling takes a minute
    setup = in_small() if options.dry_run else on_gpu()
    told_conditions = conditions(setup, options.commit)
    record = Record(options.out or Path(os.environ.get("OUT") or RESULTS), told_conditions)
    chosen = [part for part in parts if getattr(options, part)] or parts
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        corpus = Corpus(Path(name), setup.small, setup.names)
        for part in chosen:
            with record.part(part):
                if part == "encode":
                    encode(record, setup)
                    continue
                if not (corpus.root / "clips").exists():
                    record.row("corpus", make_corpus, corpus)
                (decode if part == "decode" else e2e)(record, setup, corpus)
    reached = targets(record.rows)
    for what, (figure, sign, limit) in reached.items():
        verdict = "reached" if (figure >= limit if sign == ">=" else figure < limit) else "NOT reached"
        print(f"{what:45} {figure:9.4g} {sign} {limit:<6} {'a dry run' if setup.small else verdict}")
    failed = [name for name, row in record.rows.items() if row.get("ok") is False]
    brief = {key: told_conditions[key] for key in ("dry_run", "commit", "gpu", "nvdec")}
    last = {"bench": "gpu_check", **brief, "failed": failed, "targets": reached, "record": str(record.path)}
    print(json.dumps(rounded(last)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
