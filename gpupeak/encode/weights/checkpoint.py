"""What is in weight files? They come from strangers: of pickles torch admits nothing but tensors and containers."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import safe_open

from gpupeak.encode.weights.fit import explained, fit, fitting
from gpupeak.encode.weights.identity import WeightsId
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import EncoderSpec
from gpupeak.errors import WeightsError
from gpupeak.storage.files import open_bounded
from gpupeak.storage.pickles import LARGEST, noted

Tensors: TypeAlias = dict[str, Callable[[], torch.Tensor]]
"""A checkpoint's tensors by name, each read when called: half of a CLIP checkpoint is text tower."""

_LARGEST_ARCHIVE, _LARGEST_OLD = 16 << 30, 3 << 30  # bytes; the old format is read as a whole
_TORCH_SCRIPT = (
    "a TorchScript archive is a program; expected a state dict: "
    "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'clip.pt') makes one of a file you trust"
)


def load_state(
    spec: EncoderSpec, weights: WeightsId, expected: Mapping[str, torch.Tensor], *, quick_gelu: bool = False
) -> dict[str, torch.Tensor]:
    """An image tower's state: random, or read from `weights.files`, floating-point tensors widened to float32.

    open_clip's layout (`visual.*`, or an image tower's state alone) and, for this project's own tower, that of
    transformers (`vision_model.*`, `embeddings.*`) are read. `expected` has the names, shapes and dtypes wanted;
    `quick_gelu` is the module's activation, which open_clip's configuration beside the files may contradict. Raises
    WeightsError.
    """
    if weights.seed is not None:
        return random_state(weights.seed, expected)
    tensors: Tensors = {}
    with fitting(spec, weights):
        for file in weights.files:
            with explained(file.name):
                tensors |= _open(file)
        parts = fit(spec, weights, tensors, expected, quick_gelu)
        return {name: _assemble({part: tensors[part] for part in parts[name]}, expected[name]) for name in expected}


def _open(file: Path) -> Tensors:
    if file.suffix == ".safetensors":
        handle: Any = safe_open(file, framework="pt")
        return {name: partial(handle.get_tensor, name) for name in handle.keys()}  # noqa: SIM118 - no mapping
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd pickles torch says more, on lines of its own
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=_check_pickles(file))
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise WeightsError(f"{file.name} holds a {type(state).__name__}, expected a state dict")
    return {str(name): value.detach for name, value in state.items() if isinstance(value, torch.Tensor)}


def _check_pickles(file: Path) -> bool:
    """Whether it is an archive, which is mapped. Raises for what becomes more than its tensors when torch reads it."""
    with open_bounded(file, _LARGEST_ARCHIVE) as stream:
        size = os.fstat(stream.fileno()).st_size
        if not zipfile.is_zipfile(stream):
            if size > _LARGEST_OLD:
                raise ValueError(f"{size:,} bytes in torch's old format, expected at most {_LARGEST_OLD:,}")
            stream.seek(0)
            if (start := stream.read(LARGEST)).startswith(b"PK"):
                raise EOFError  # the directory of an archive lies at its end
            head = io.BytesIO(start)
            for _ in range(5):  # magic number, protocol, system, the tensors, and which storages follow
                noted(head, _called)
            return False
        stream.seek(max(0, size - LARGEST))
        with zipfile.ZipFile(io.BytesIO(stream.read())) as end:  # an archive's directory lies there, or is too large
            entries = end.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise WeightsError(f"{file.name} cannot be read: {_TORCH_SCRIPT}")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename[:100]} is compressed, as torch.save compresses nothing")
            if entry.file_size > LARGEST and "/data/" not in entry.filename:
                raise ValueError(f"{entry.filename[:100]} of {entry.file_size:,} bytes, expected at most {LARGEST:,}")
        with zipfile.ZipFile(stream) as archive:
            if (damaged := archive.testzip()) is not None:  # of what is mapped, nobody computes a checksum
                raise ValueError(f"{damaged[:100]} is damaged")
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    noted(io.BytesIO(archive.read(name)), _called)
    return True


def _called(module: str, name: str) -> str:
    if name == "bytearray":  # of a number it is as large
        raise pickle.UnpicklingError(name)
    return f"{module}.{name}"


def _assemble(parts: Tensors, like: torch.Tensor) -> torch.Tensor:
    """One tensor of the state from its parts in the checkpoint, in memory of its own."""
    shape, values = list(like.shape), []
    if len(parts) > 1:
        shape[0] //= len(parts)
    for name, read in parts.items():
        transposed = name.endswith("visual_projection.weight")  # a Linear there, a right factor here
        with explained(name):
            value = _checked(name, read(), shape[::-1] if transposed else shape, like)
        values.append(value.T if transposed else value)
    return torch.cat(values) if len(values) > 1 else values[0]


def _checked(name: str, value: torch.Tensor, shape: list[int], like: torch.Tensor) -> torch.Tensor:
    while value.ndim > len(shape) and len(value) == 1:  # DINOv2's tokens, for a batch of one
        value = value[0]
    if list(value.shape) != shape:
        raise WeightsError(f"{name} is {list(value.shape)}, expected {shape}")
    if value.is_floating_point() != like.is_floating_point():
        raise WeightsError(f"{name} is {value.dtype}, expected {like.dtype}")
    # Copied: safetensors maps the file, and a file that changes later must not change features.
    value = value.to(torch.float32 if like.is_floating_point() else like.dtype, copy=True)
    # Both ends are NaN where any value is; isfinite() of all values would take 17 times as long.
    if not all(bool(end.isfinite()) for end in torch.aminmax(value)):
        raise WeightsError(f"{name} holds values that are not finite")
    return value
