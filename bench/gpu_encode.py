"""The encoder's rows of the GPU check: is what it computes right, how many images/s is that, and what bounds them?

Nothing here needs PyAV or DALI.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import gpu_corpus
import numpy as np
import numpy.typing as npt
import torch
from monitor import Monitor
from record import Record, Row, needed, timed

from gpupeak.encode.gpu.attention import choose_attention
from gpupeak.encode.gpu.device import Cuda, Stream, Work
from gpupeak.encode.gpu.graphs import BUCKETS, EagerRunner, GraphEncoder, GraphRunner, Runner
from gpupeak.encode.kernels import FASTEST, KERNELS, Kernels, compile_kernels
from gpupeak.encode.vit import VisionTower, expected_state
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import CLIP_VIT_LARGE, DINO2, ENCODERS, SIGLIP, TowerShape
from gpupeak.errors import DeviceError
from gpupeak.kernels.add_layer_norm import add_layer_norm
from gpupeak.kernels.linear_silu import linear_silu
from gpupeak.kernels.patch_rows import patch_rows
from gpupeak.pipeline import Encoder
from gpupeak.types import Failed, FrameBatch, FramePlan, Sample, SamplingRule

Pixels: TypeAlias = "npt.NDArray[np.uint8]"
Of: TypeAlias = "dict[str, npt.NDArray[np.float64]]"

SIZE = 224
COSINE, RELATIVE_L2 = 0.9999, 5e-3  # what fidelity is
DEFAULT, COMPILED = "+".join(("graphs", *FASTEST)), "compiled+patch_rows"  # the first is what the line runs
WAYS = {
    "+".join(("graphs", *names)): names
    for count in range(len(KERNELS) + 1)
    for names in itertools.combinations(KERNELS, count)
} | {COMPILED: ("patch_rows",)}
"""Graphs with the kernels of these names: all combinations, and what torch.compile makes of the rest."""
KINDS = {
    "attention": r"flash|fmha|attention|sdp",
    "products": r"gemm|nvjet|cutlass|xmma|cublas|linear_silu|addmm|::mm\b",
    "norms": "layer_norm",
}
"""What a kernel of the GPU is, by its name; the first that is found."""


class Step(NamedTuple):
    """A row to come: `stage` is its place in the order, `seconds` what it is thought to take on one H200."""

    stage: int
    part: str
    name: str
    seconds: float
    measure: Callable[[], Row]


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


class OneStream(Cuda):
    """All work on one stream: torch keeps the memory that was freed on each, and gives it to no other."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._one = super().stream()

    def stream(self) -> Any:
        return self._one


@dataclass(frozen=True)
class Setup:
    """What is checked, on what, and how much of it."""

    small: bool
    device: torch.device
    cuda: Cuda
    dtype: torch.dtype
    shape: TowerShape
    others: Mapping[str, TowerShape]
    buckets: tuple[int, ...]
    repeats: int

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


def on_gpu() -> Setup:
    device = torch.device("cuda:0")
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # as on the line
    shapes = {name: spec.tower for name, spec in ENCODERS.items() if spec.tower is not None}
    shape = shapes.pop(CLIP_VIT_LARGE.name)
    return Setup(False, device, OneStream(device), torch.float16, shape, shapes, BUCKETS, 3)


def in_small() -> Setup:
    """A tower of two blocks on the CPU; DALI on the CPU in NVDEC's place."""
    shape = TowerShape(size=SIZE, patch=56, width=64, layers=2, heads=2, dim=16)
    others = {
        "DINO2_LARGE": TowerShape(SIZE, 56, 64, 2, 2, 64, 256, DINO2, trained=280, resize=256),
        "SigLIP_SO": TowerShape(384, 112, 64, 2, 2, 64, 240, SIGLIP),
    }
    cuda: Any = HostCuda()
    return Setup(True, torch.device("cpu"), cuda, torch.float32, shape, others, (8, 16), 1)


def steps(setup: Setup, record: Record) -> Iterator[Step]:
    towers = Towers(setup, lambda: record.rows.get("encode: product of matrices", {}).get("flop_per_s", math.nan))
    yield Step(1, "encode", "product of matrices", 8, partial(product, setup))
    yield Step(1, "encode", "attention", 8, lambda: attention_of(towers.tower))
    yield Step(1, "encode", "attention: open_clip", 8, lambda: attention_of(towers.of_open_clip))
    yield Step(2, "encode", "kernel: patch_rows", 8, lambda: check_patch_rows(setup, towers.tower))
    yield Step(2, "encode", "kernel: add_layer_norm", 6, partial(check_add_layer_norm, setup))
    yield Step(2, "encode", "kernel: linear_silu", 30, partial(check_linear_silu, setup))
    every = setup.buckets
    yield Step(2, "encode", f"every bucket: {DEFAULT}", 20, lambda: towers.check(towers.graphs(FASTEST, every), every))
    yield Step(4, "encode", f"{towers.most}: open_clip", 12, partial(towers.measure, towers.open_clip))
    yield Step(4, "encode", f"{towers.most}: eager", 6, partial(towers.measure, towers.eager))
    for name in dict.fromkeys(("graphs", DEFAULT, *WAYS)):
        way = partial(towers.graphs, WAYS[name], compile=name == COMPILED)
        seconds = 70 if name == COMPILED else 7
        yield Step(4, "encode", f"{towers.most}: {name}", seconds, partial(towers.measure, way))
        if name == DEFAULT:
            yield Step(4, "encode", "where the time goes", 6, towers.where)
    for name, shape in setup.others.items():
        other = Towers(replace(setup, shape=shape), towers.ceiling)
        yield Step(4, "encode", f"{DEFAULT}: {name}", 40, partial(other.measure, other.default))


def seconds_of(setup: Setup, work: Work, repeats: int = 20, warm: int = 3) -> list[float]:
    """On the stream of all timings, after what others have still to do, its inputs perhaps."""
    synchronize(setup)
    stream: Stream = setup.cuda.stream()
    for _ in range(warm):
        stream.run("warm up", work)
    events = [stream.record()]
    for _ in range(2 if setup.small else repeats):
        stream.run("timed", work)
        events.append(stream.record())
    events[-1].synchronize()
    return [began.elapsed_time(ended) / 1000 for began, ended in itertools.pairwise(events)]


def synchronize(setup: Setup) -> None:
    if setup.device.type == "cuda":
        torch.cuda.synchronize()


def product(setup: Setup) -> Row:
    """Of random numbers: zeros are faster. First a burst of 30, then for 3 s: a GPU that is warm has lower clocks."""
    side, least = (256, 0.1) if setup.small else (8192, 3.2)
    a, b = (torch.randn(side, side, device=setup.device, dtype=setup.dtype) for _ in range(2))
    work, held = partial(torch.mm, a, b, out=torch.empty_like(a)), list[float]()
    burst = timed(seconds_of(setup, work, repeats=30))
    with Monitor() as monitor:
        while sum(held) < least:
            held += seconds_of(setup, work, repeats=50, warm=0)
    row, seen = timed(held[len(held) // 2 :]), monitor.figures()
    rate, at_first = (2 * side**3 / each["median_s"] for each in (row, burst))
    says = f"{rate / 1e12:.3g} TFLOP/s held for {sum(held):.1f} s, {at_first / 1e12:.3g} at first{clocks(seen)}"
    return {**row, "side": side, "flop_per_s": rate, "burst": {**burst, "flop_per_s": at_first}, **seen, "says": says}


def clocks(seen: Row) -> str:
    return f", {seen['clock_mhz']:.0f} MHz, {seen['power_w']:.0f} W" if "clock_mhz" in seen else ""


def beside(setup: Setup, works: Sequence[Work], amount: float, unit: str, ok: bool, error: float) -> Row:
    """The time of a kernel and of its reference, either of which moves `amount` bytes or computes as many FLOP."""
    row, slow = (timed(seconds_of(setup, work)) for work in works)
    rate, slow_rate = (amount / each["median_s"] / 1e12 for each in (row, slow))
    says = f"{1e6 * row['median_s']:.0f} us, {rate:.3g} T{unit}/s; reference {slow_rate:.3g}; relative L2 {error:.1e}"
    return {**row, "reference": slow, unit: amount, "ok": ok, "relative_l2": error, "says": says}


def relative_l2(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).double().norm() / wanted.double().norm())


def attention_of(tower: torch.nn.Module) -> Row:
    return {"says": choose_attention(tower, SIZE).name}


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
    same, error = torch.equal(found, wanted), relative_l2(found, wanted)
    return beside(setup, (kernel, reference), pixels.nbytes + found.nbytes, "B", same, error)


def check_add_layer_norm(setup: Setup) -> Row:
    """The sum bit for bit, its LayerNorm against float64."""
    width, random = setup.shape.width, partial(torch.randn, device=setup.device, dtype=setup.dtype)
    rows = max(setup.buckets) * (setup.shape.grid**2 + 1)
    residual, delta, weight, bias = random(rows, width), random(rows, width), random(width), random(width)
    wanted, kernel = residual + delta, setup.kernels("add_layer_norm").add_layer_norm
    exact = torch.nn.functional.layer_norm(wanted.double(), (width,), weight.double(), bias.double(), 1e-5)
    total, normed = kernel(residual.clone(), delta.clone(), weight, bias, 1e-5)
    ok, error = torch.equal(total, wanted), relative_l2(normed, exact)
    # The kernel works in place: from run to run the numbers grow, which takes no longer.
    works = [partial(work, residual, delta, weight, bias, 1e-5) for work in (kernel, add_layer_norm)]
    return beside(setup, works, 4 * total.nbytes, "B", ok and error < 1e-3, error)


def check_linear_silu(setup: Setup) -> Row:
    """Against float64; one rounding to fp16 is 2e-4 off, the reference's two 3e-4."""
    width, rows = setup.shape.width, max(setup.buckets) * (setup.shape.grid**2 + 1)
    random = partial(torch.randn, device=setup.device, dtype=setup.dtype)
    x, weight, bias = random(rows, width), random(4 * width, width) / width**0.5, random(4 * width)
    kernel = setup.kernels("linear_silu").linear_silu
    found, errors = kernel(x, weight, bias), list[float]()
    for some in (slice(None, 4096), slice(-4096, None)):  # the last tile is not a whole one
        exact = torch.nn.functional.silu(x[some].double() @ weight.double().T + bias.double())
        errors.append(relative_l2(found[some], exact))
    works = [partial(work, x, weight, bias) for work in (kernel, linear_silu)]
    ok = all(error < 1e-3 for error in errors)  # nor if one is not a number
    return beside(setup, works, 2 * rows * 4 * width**2, "FLOP", ok, max(errors))


def open_clip_tower(shape: TowerShape) -> torch.nn.Module:
    """open_clip's own image tower, without memory yet."""
    from open_clip.transformer import QuickGELU, VisionTransformer

    sizes = {"image_size": shape.size, "patch_size": shape.patch, "width": shape.width, "layers": shape.layers}
    with torch.device("meta"):
        tower: torch.nn.Module = VisionTransformer(
            **sizes, heads=shape.heads, mlp_ratio=4.0, output_dim=shape.dim, act_layer=QuickGELU
        )
    return tower


def drawn(count: int) -> Pixels:
    """Four neighbouring frames each of many clips, `[count, 224, 224, 3]`."""
    return np.stack([picture for seed in range(count // 4) for picture in gpu_corpus.pictures((SIZE, SIZE), 4, seed)])


class Way(NamedTuple):
    """One way to go from pixels, on the host or the device, to features; `work` is all of it for the most images."""

    features: Callable[[Any], npt.NDArray[Any]]
    work: Work


class Towers:
    """Ways to go from pixels to features, each held against float32, and each timed beside graphs without a kernel."""

    def __init__(self, setup: Setup, ceiling: Callable[[], float]) -> None:
        self.setup, self.ceiling, self.most = setup, ceiling, max(setup.buckets)

    @cached_property
    def tower(self) -> VisionTower:
        return self.setup.tower(self.setup.dtype)

    @cached_property
    def pixels(self) -> Pixels:
        return drawn(2 * self.most)

    @cached_property
    def given(self) -> torch.Tensor:
        return torch.from_numpy(self.pixels).to(self.setup.device)

    @cached_property
    def wanted(self) -> npt.NDArray[np.float64]:
        torch.backends.cuda.matmul.allow_tf32 = False
        tower = self.setup.tower(torch.float32)
        with torch.inference_mode():
            return torch.cat([tower(chunk).cpu() for chunk in torch.split(self.given, 32)]).double().numpy()

    @cached_property
    def _beside(self) -> Way:
        return self.graphs(())

    @cached_property
    def of_open_clip(self) -> torch.nn.Module:
        """open_clip's own module, with the same weights."""
        needed("open_clip")
        from gpupeak.encode.openclip import OpenClipTower

        shape, visual = self.setup.shape, open_clip_tower(self.setup.shape)
        visual.load_state_dict(random_state(0, expected_state(shape)), strict=True, assign=True)
        return OpenClipTower(visual, shape.mean, shape.std, device=self.setup.device, dtype=self.setup.dtype)

    def open_clip(self) -> Way:
        tower = self.of_open_clip

        @torch.inference_mode()
        def encode(pixels: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = tower(pixels)
            return features

        def features(pixels: Any) -> npt.NDArray[Any]:
            return encode(torch.as_tensor(pixels).to(self.setup.device)).cpu().numpy()

        return Way(features, partial(encode, self.given[: self.most]))

    def default(self) -> Way:
        return self.graphs(FASTEST)

    def eager(self) -> Way:
        return self.of(EagerRunner(self.tower, self.setup.cuda, self.most))

    def graphs(self, names: Sequence[str], buckets: Sequence[int] = (), *, compile: bool = False) -> Way:
        """Graphs with the kernels of these names, and the attention that the line takes."""
        kernels, attention = self.setup.kernels(*names), choose_attention(self.tower, SIZE)
        eager = EagerRunner(self.tower, self.setup.cuda, self.most, kernels, attention, compile=compile)
        return self.of(GraphRunner(eager, buckets or (self.most,)))

    def of(self, runner: Runner) -> Way:
        count = self.most
        images = torch.arange(count, dtype=torch.int32, device=self.setup.device)
        encoder = GraphEncoder(runner, n=count, size=SIZE)

        def work() -> None:
            runner.tower.write_rows(self.given[:count], images, runner.rows)
            runner.run(count)

        return Way(lambda pixels: features_of(encoder, [alone("drawn", pixels)])["drawn"], work)

    def measure(self, make: Callable[[], Way]) -> Row:
        way = make()
        row, rates = self.check(way, (self.most,)), self.rates(way)
        return {**row, **rates, "says": f"{rates['says']}; {row['says']}"}

    def check(self, way: Way, counts: Sequence[int]) -> Row:
        """So many images, and one less, from the device and the host; and what must not pass."""

        def of(pixels: Any) -> Of:
            return fidelity(way.features(pixels), self.wanted[: len(pixels)], self.wanted.mean(0))

        most, pixels = max(counts), self.pixels
        ofs = {count: [of(self.given[:count]), of(pixels[:count]), of(pixels[: count - 1])] for count in counts}
        farthest = {count: max(worst(each)["centred_relative_l2"] for each in some) for count, some in ofs.items()}
        every = [each for some in ofs.values() for each in some]
        least = {key: (min if "cosine" in key else max)(worst(each)[key] for each in every) for key in every[0]}
        controls = {
            "neighbouring frame": of(pixels[1 : most + 1]),
            "swapped channels": of(np.ascontiguousarray(pixels[:most, ..., ::-1])),
            "picture shifted by a row": of(np.roll(pixels[:most], 1, axis=1)),
            "features shifted by a row": fidelity(np.roll(self.wanted, 1, axis=0), self.wanted, self.wanted.mean(0)),
        }
        passing = {control: int(accurate(each).sum()) for control, each in controls.items()}
        ok = all(accurate(each).all() for each in every) and not any(passing.values())
        says = f"{described(least)}; controls passing: {sum(passing.values())}"
        return {**least, "ok": ok, "farthest": farthest, "controls_passing": passing, "says": says}

    def rates(self, way: Way) -> Row:
        """Images/s, in turns with graphs without a kernel: what drifts, drifts for both."""
        works, seconds = {"this": way.work, "graphs": self._beside.work}, defaultdict[str, list[float]](list)
        with Monitor() as monitor:
            for _ in range(1 if self.setup.small else 3):
                for name, work in works.items():
                    seconds[name] += seconds_of(self.setup, work, repeats=6, warm=1)
        row, other, seen = timed(seconds["this"]), timed(seconds["graphs"]), monitor.figures()
        rate, ratio = self.most / row["median_s"], other["median_s"] / row["median_s"]
        share = rate * sum(flop(self.setup.shape).values()) / self.ceiling()
        says = f"{rate:.0f} images/s, {100 * share:.0f} % of the product, {ratio:.3f} of graphs{clocks(seen)}"
        figures = {"images": self.most, "images_per_s": rate, "of_product": share, "over_graphs": ratio}
        return {**row, **figures, "graphs": other, **seen, "says": says}

    def where(self) -> Row:
        """What limits it: the kernels of a batch by kind, and the rate of its products beside that of the large one."""
        way, repeats, stream = self.graphs(FASTEST), 3, self.setup.cuda.stream()
        stream.run("warm up", way.work)
        synchronize(self.setup)
        with torch.profiler.profile() as profile:
            for _ in range(repeats):
                stream.run("profiled", way.work)
            synchronize(self.setup)
        on_gpu = self.setup.device.type == "cuda"
        kinds, kernels = Counter[str](), Counter[str]()
        for event in profile.key_averages():
            if on_gpu and event.device_type.name != "CUDA":
                continue
            took = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6 / repeats
            kinds[next((kind for kind, names in KINDS.items() if re.search(names, event.key, re.I)), "rest")] += took
            kernels[event.key[:120]] += took
        if not kinds["products"]:
            raise ValueError(f"no product among the kernels: {list(kernels)[:8]}")
        rate = self.most * flop(self.setup.shape)["products"] / kinds["products"]
        shares = ", ".join(f"{kind} {100 * took / kinds.total():.0f} %" for kind, took in kinds.most_common())
        says = f"{1e3 * kinds.total():.1f} ms: {shares}; products at {rate / 1e12:.3g} TFLOP/s, "
        says += f"{100 * rate / self.ceiling():.0f} % of the large one"
        figures = {"flop_per_image": flop(self.setup.shape), "products_flop_per_s": rate}
        return {"seconds": kinds, "kernels": dict(kernels.most_common(20)), **figures, "says": says}


def flop(shape: TowerShape) -> dict[str, float]:
    """Of one image, 156 GFLOP for ViT-L/14; where its token alone is read, the last block computes no other."""
    tokens, width, full = shape.grid**2 + shape.family.class_token, shape.width, shape.layers - 1
    wanted, projected = (1, shape.dim) if shape.family.pooling == "class" else (tokens, 0)
    row = -(-3 * shape.patch**2 // 8) * 8
    block = 2 * width**2 + 2 * width * shape.hidden  # of a token, beside its key and value
    products = shape.layers * 2 * tokens * width**2 + (full * tokens + wanted) * block
    products += shape.grid**2 * row * width + width * projected
    return {"products": 2.0 * products, "attention": 2.0 * (full * tokens + wanted) * 2 * tokens * width}


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
