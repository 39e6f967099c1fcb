"""The one place where a device chooses classes: settings in, the parts of a line out."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from gpupeak.config import ExtractConfig
from gpupeak.decode.pool import WorkerPool
from gpupeak.encode.base import TowerEncoder
from gpupeak.encode.load import load_tower
from gpupeak.encode.spec import EncoderSpec
from gpupeak.errors import DeviceError
from gpupeak.pipeline import READY_BATCHES, Decoder, Encoder, Writer
from gpupeak.write import NpyWriter

__all__ = ["Parts", "build", "choose_device"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What `pipeline.run` joins, the device it runs on, and what the user should be told about the choice."""

    decoder: Decoder
    encoder: Encoder
    writer: Writer
    device: str
    notice: str

    def close(self) -> None:
        """End what the line holds: its processes."""
        self.decoder.close()


def build(config: ExtractConfig, spec: EncoderSpec, n: int) -> Parts:
    """Build the line for samples of at most `n` frames.

    Raises:
        DeviceError: the device asked for is not there.
        WeightsError: the weights are not there or do not fit.
    """
    device, why = choose_device(config.device)
    # On the CPU eight images already fill the matrix units, and a product's rounding changes with its number
    # of rows: one sample at a time keeps results independent of how samples meet.
    batch_size = config.batch_size or (1 if device.type == "cpu" else 16)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = config.workers or cores or 1
    # Started first: the workers import while the weights are read.
    decoder = WorkerPool(workers, n, spec.size, time_limit=config.time_limit, held=READY_BATCHES + batch_size + 1)
    try:
        dtype = torch.float32 if device.type == "cpu" else torch.float16
        tower = load_tower(spec, config.weights, device, dtype)
        encoder = TowerEncoder(tower, spec, device, batch_size)
    except BaseException:
        decoder.close()
        raise
    return Parts(decoder, encoder, NpyWriter(fsync=config.fsync), str(device), f"{why}; {workers} decoding processes")


def choose_device(asked: str) -> tuple[torch.device, str]:
    """The torch device for `auto`, `cpu` or `cuda[:N]`, and one line that says what was chosen and why.

    Raises:
        DeviceError: a GPU was asked for by name and is not there. Only `auto` falls back, and says so.
    """
    if asked == "cpu":
        return torch.device("cpu"), "on the CPU, as asked"
    missing = _why_no_cuda()
    if asked == "auto":
        if missing is not None:
            return torch.device("cpu"), f"on the CPU: {missing}"
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
        return f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable NVIDIA driver or GPU"
    return None
