"""The one place where a device chooses classes: settings in, a line out."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from threading import Event

import torch
from torch.nn.attention import sdpa_kernel

from gpupeak import pipeline
from gpupeak.child import cores
from gpupeak.config import ExtractConfig
from gpupeak.decode.driver import Abilities, abilities, too_old
from gpupeak.decode.nvdec import nvdec_abilities
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.resources import LARGEST_BATCH, batches_behind, fitted, samples_at_once
from gpupeak.encode.base import TowerEncoder
from gpupeak.encode.load import fetched, load_tower
from gpupeak.encode.vit import VisionTower
from gpupeak.encode.weights.identity import identify
from gpupeak.encoders import EncoderSpec
from gpupeak.errors import ConfigError, DeviceError, WeightsError
from gpupeak.features.writer import NpyWriter
from gpupeak.lines import Tell
from gpupeak.lines.several import ManyLines
from gpupeak.lines.supervised import SupervisedLine
from gpupeak.storage.fetching import FetchingDecoder
from gpupeak.types import Outcome, Sample

_PLANNERS = 3  # one plans over 400 samples/s
_CPU_IMAGES = 32  # encoded at once, which takes ViT-L/14 0.6 GB


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a line in this process, and the device it runs on."""

    decoder: pipeline.Decoder
    encoder: pipeline.Encoder
    writer: pipeline.Writer
    device: str

    def run(self, samples: Iterable[Sample], stop: Event | None = None) -> Generator[Outcome]:
        return pipeline.run(samples, self.decoder, self.encoder, self.writer, stop=stop)

    def close(self) -> None:
        self.decoder.close()


def build(config: ExtractConfig, spec: EncoderSpec, n: int, tell: Tell) -> pipeline.Line:
    """Build the line for samples of at most `n` frames; each GPU's runs in a supervised process of its own.

    Raises DeviceError, WeightsError or ConfigError where what is asked for is not there or cannot be reached.
    """
    if config.engine is not None:
        return _ray_line(config, spec, n, tell)
    chosen = [choose_device(each) for each in config.device.split(",")]
    devices = [device for device, _ in chosen]
    decoder, how = choose_decoder(config.decoder, devices[0])
    tell(f"{', '.join(why for _, why in chosen)}; {how}")
    if devices[0].type == "cpu":
        return _cpu_line(config, spec, n)
    _refuse_memory(config, "a GPU's line")
    if len(devices) > 1:  # each has its share of the cores
        config = replace(config, workers=max(1, (config.workers or cores()) // len(devices)))

    makers = [
        partial(
            SupervisedLine,
            (cuda_line, (config, spec, n, str(device), decoder)),
            tell,
            time_limit=config.time_limit,
            on_cpu=decoder == "cpu",
            environment={"CUDA_VISIBLE_DEVICES": visible(device.index)},
        )
        for device in devices
    ]
    return makers[0]() if len(makers) == 1 else ManyLines(makers, tell)


def visible(index: int) -> str:
    """`CUDA_VISIBLE_DEVICES` for a process that is to see this one's GPU `index`, as its number 0, and no other.

    It may be set here, to numbers or UUIDs: those are the GPUs that there are.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(index) if given is None else given.split(",")[index].strip()


def _ray_line(config: ExtractConfig, spec: EncoderSpec, n: int, tell: Tell) -> pipeline.Line:
    from gpupeak.lines.ray import RayLine

    _refuse_memory(config, "Ray's actors")
    fetched(spec, config.weights)  # before many ask for it, and so that it can be told what they were
    sha256 = identify(spec, config.weights).sha256
    return RayLine(
        (actor_line, (config, spec, n, sha256)),
        tell,
        address=config.address,
        device=config.device,
        actors=config.actors,
        gpus_per_actor=config.gpus_per_actor,
        workers=config.workers,
    )


def actor_line(config: ExtractConfig, spec: EncoderSpec, n: int, sha256: str | None, tell: Tell) -> pipeline.Line:
    """The line of one Ray actor, on what Ray gave it. Raises WeightsError if its weights are not of this `sha256`."""
    fetched(spec, config.weights)
    here = identify(spec, config.weights)
    if here.sha256 != sha256:
        raise WeightsError(f"weights {here.source}: SHA-256 {here.sha256} on this node, {sha256} where the run began")
    given: dict[str, float] = import_module("ray").get_runtime_context().get_assigned_resources()
    on_gpu = bool(given.get("GPU"))
    config = replace(
        config,
        engine=None,
        address=None,
        actors=None,
        gpus_per_actor=None,
        workers=max(1, int(given.get("CPU", 1))),
        device="cuda:0" if on_gpu else "cpu",  # CUDA_VISIBLE_DEVICES shows that one alone
    )
    config = fitted(config, n, spec.size, config.workers or 1, tell)
    return build(config, spec, n, tell if on_gpu else lambda text: None)  # on the CPU it has nothing to choose


def _cpu_line(config: ExtractConfig, spec: EncoderSpec, n: int) -> Parts:
    # A product's rounding changes with its number of rows: one sample at a time keeps results independent of others.
    batch_size = config.batch_size or 1
    # Started first: the workers import while the weights are read.
    decoder = _pool(config, spec, n, held=pipeline.READY_BATCHES + batch_size + 1)
    try:
        tower = load_tower(spec, config.weights, "cpu", torch.float32)
        encoder = TowerEncoder(tower, "cpu", batch_size, _CPU_IMAGES)
    except BaseException:
        decoder.close()
        raise
    return _parts(config, decoder, encoder, "cpu")


def cuda_line(config: ExtractConfig, spec: EncoderSpec, n: int, name: str, decoder: str, tell: Tell) -> Parts:
    """The line of the first GPU that this process sees, and should see alone; others call it `name`.

    `decoder` is as `choose_decoder` gives it.
    """
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    # Sums of a long product that are cut into fp16 parts are off by more than all the rest.
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    # Before DALI: what it allocates must not meet a graph's capture.
    encoder = _cuda_encoder(config, spec, n, device, lambda text: tell(f"{name}: {text}"))
    pool = _pool(config, spec, n, held=batches_behind(config, n))
    if decoder == "cpu":
        return _parts(config, pool, encoder, name)
    from gpupeak.decode.dali import DaliDecoder
    from gpupeak.decode.hybrid import HybridDecoder

    try:
        planner = _pool(config, spec, n, held=0, most=_PLANNERS)
        nvdec = DaliDecoder(n, spec.size, planner, device, abilities=abilities(device.index or 0))
    except BaseException:
        pool.close()
        raise
    return _parts(config, HybridDecoder(nvdec, pool, decoder, tell), encoder, name)


def _cuda_encoder(
    config: ExtractConfig, spec: EncoderSpec, n: int, device: torch.device, tell: Tell
) -> pipeline.Encoder:
    from gpupeak.encode.gpu.attention import choose_attention
    from gpupeak.encode.gpu.device import Cuda
    from gpupeak.encode.gpu.graphs import BUCKETS, EagerRunner, GraphEncoder, GraphRunner
    from gpupeak.encode.kernels import FASTEST, compile_kernels

    tower = load_tower(spec, config.weights, device, torch.float16)
    attention = choose_attention(tower, spec.size)
    tell(f"attention by {attention.name}")
    if not isinstance(tower, VisionTower):
        attending = sdpa_kernel(attention.backend)(tower.forward)
        return TowerEncoder(attending, device, samples_at_once(config, n), LARGEST_BATCH)
    most = config.batch_size * n if config.batch_size else max(BUCKETS)
    buckets = (*(bucket for bucket in BUCKETS if bucket < most), most)
    kernels = compile_kernels(FASTEST, device, tower.shape, tell)
    runner = GraphRunner(EagerRunner(tower, Cuda(device), max(buckets), kernels, attention), buckets)
    runner.check()
    return GraphEncoder(runner, n=n, size=spec.size)


def _parts(config: ExtractConfig, decoder: pipeline.Decoder, encoder: pipeline.Encoder, device: str) -> Parts:
    fetching = FetchingDecoder(decoder, config.cache_directory, config.cache_size)
    return Parts(fetching, encoder, NpyWriter(fsync=config.fsync), device)


def _pool(config: ExtractConfig, spec: EncoderSpec, n: int, held: int, most: int | None = None) -> WorkerPool:
    workers = config.workers or cores()
    return WorkerPool(min(workers, most or workers), n, spec.size, time_limit=config.time_limit, held=held)


def _refuse_memory(config: ExtractConfig, other: str) -> None:
    """What is in this process's memory is not in that of another process, which runs the line."""
    for given in (config.dataset_root, config.mer_factory_output, config.output_root, config.videos, config.aus):
        if given is not None and str(given).lower().startswith("memory:"):
            raise ConfigError(f"memory:// is this process's own; {other} would not see it: --device cpu runs here")


def choose_decoder(asked: str, device: torch.device, found: Abilities | str | None = None) -> tuple[str, str]:
    """The decoder for what was asked, and how to say it. Only `auto` falls back; DeviceError otherwise.

    `found` is what `nvdec_abilities` says, if it was asked.
    """
    if asked == "cpu":
        return "cpu", "decoding on the CPU, as asked"
    if device.type == "cpu":
        if asked != "auto":
            raise DeviceError(f"--decoder {asked} decodes into a GPU's memory, and the encoder runs on the CPU")
        return "cpu", "decoding there, too"
    if isinstance(missing := found or nvdec_abilities(device.index or 0), str):
        if asked != "auto":
            raise DeviceError(f"--decoder {asked}: {missing}")
        return "cpu", f"decoding on the CPU: {missing}"
    told = {"nvdec": "on NVDEC, as asked", "hybrid": "on NVDEC and the CPU, as asked"}
    return asked, f"decoding {told.get(asked, 'where it turns out to be fast')}"


def choose_device(asked: str) -> tuple[torch.device, str]:
    """The torch device for `auto`, `cpu` or `cuda[:N]`, and how to say it. Only `auto` falls back."""
    if asked == "cpu":
        return torch.device("cpu"), "on the CPU, as asked"
    missing = _why_no_cuda()
    if asked == "auto":
        if missing is not None:
            loud = "WARNING: " if too_old(torch.version.cuda) else ""  # a GPU may be there, and idle
            return torch.device("cpu"), f"{loud}on the CPU: {missing}"
        return torch.device("cuda:0"), f"on {torch.cuda.get_device_name(0)}"
    index = int(asked.partition(":")[2] or 0)
    if missing is not None:
        raise DeviceError(f"--device {asked}: {missing}; use --device auto or cpu to run without a GPU")
    if index >= torch.cuda.device_count():
        raise DeviceError(f"--device {asked}: this machine has {torch.cuda.device_count()} GPU(s), numbered from 0")
    return torch.device("cuda", index), f"on {torch.cuda.get_device_name(index)}"


def _why_no_cuda() -> str | None:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        unusable = f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable NVIDIA driver or GPU"
        return ": ".join(too_old(torch.version.cuda) or (unusable,))
    return None
