"""What is in weight files? They come from strangers: of pickles torch admits nothing but tensors and containers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import safe_open

from gpupeak.encode.weights.identity import WeightsId
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import EncoderSpec
from gpupeak.errors import WeightsError
from gpupeak.storage.files import open_bounded, read_bounded
from gpupeak.storage.pickles import LARGEST, noted

Tensors: TypeAlias = dict[str, Callable[[], torch.Tensor]]
"""A checkpoint's tensors by name, each read when called: half of a CLIP checkpoint is text tower."""

_CONFIG_BYTES = 1 << 20
_LARGEST_ARCHIVE, _LARGEST_OLD = 16 << 30, 3 << 30  # bytes; the old format is read as a whole
_TORCH_SCRIPT = (
    "a TorchScript archive is a program; expected a state dict: "
    "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'clip.pt') makes one of a file you trust"
)
_OUTER = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",  # their spelling
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
    "proj": "visual_projection.weight",
}
_INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_NOT_LEARNT = "vision_model.embeddings.position_ids"  # 0, 1, 2, ...: older transformers saved them


def load_state(
    spec: EncoderSpec, weights: WeightsId, expected: Mapping[str, torch.Tensor], *, quick_gelu: bool = False
) -> dict[str, torch.Tensor]:
    """An image tower's state: random, or read from `weights.files`, floating-point tensors widened to float32.

    open_clip's layout (`visual.*`, or an image tower's state alone) and, for this project's own tower, that of
    transformers (`vision_model.*`) are read. `expected` has the names, shapes and dtypes wanted; `quick_gelu` is the
    module's activation, which a configuration beside the files may contradict. Raises WeightsError.
    """
    if weights.seed is not None:
        return random_state(weights.seed, expected)
    try:
        return _read_state(spec, weights, expected, quick_gelu)
    except WeightsError as error:
        raise WeightsError(f"weights {weights.source} do not fit {spec.name}: {error}") from error


def _read_state(
    spec: EncoderSpec, weights: WeightsId, expected: Mapping[str, torch.Tensor], quick_gelu: bool
) -> dict[str, torch.Tensor]:
    tensors: Tensors = {}
    for file in weights.files:
        with _reading(file.name):
            tensors |= _open(file)
    if all(name.startswith("module.") for name in tensors):  # saved from DistributedDataParallel
        tensors = {name.removeprefix("module."): read for name, read in tensors.items()}
    directory = weights.files[0].parent
    if any(name.startswith("vision_model.") for name in tensors):
        if spec.tower is None:
            raise WeightsError("parameters are named as in transformers (vision_model.*), expected open_clip's")
        _check_config(directory / "config.json", "vision_config", "hidden_act", "quick_gelu", "quick_gelu")
        names = {name: _transformers_names(name) for name in expected}
        prefixes: tuple[str, ...] = ("vision_model.", "visual_projection.")
    else:
        if weights.tag is None:  # of a tag, open_clip itself knows the configuration
            _check_config(directory / "open_clip_config.json", "model_cfg", "quick_gelu", False, quick_gelu)
        prefix = "visual." if any(name.startswith("visual.") for name in tensors) else ""
        names = {name: (prefix + name,) for name in expected}
        prefixes = (prefix,)
    _check_names(names, tensors, prefixes)
    return {name: _assemble(names[name], tensors, like) for name, like in expected.items()}


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to run what is in the file
            reason = "it is no checkpoint, or holds more than tensors, which is never run"
        raise WeightsError(f"{what} cannot be read: {reason}") from error


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
            head = io.BytesIO(stream.read(LARGEST))
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


def _transformers_names(name: str) -> tuple[str, ...]:
    """The parameters of transformers' CLIP that one of open_clip's consists of."""
    if name in _OUTER:
        return (_OUTER[name],)
    layer, _, parameter = name.removeprefix("transformer.resblocks.").partition(".")
    home = f"vision_model.encoder.layers.{layer}"
    if parameter.startswith("attn.in_proj_"):
        kind = parameter.removeprefix("attn.in_proj_")
        return tuple(f"{home}.self_attn.{part}_proj.{kind}" for part in "qkv")
    part, _, kind = parameter.rpartition(".")
    return (f"{home}.{_INNER[part]}.{kind}",)


def _check_names(names: Mapping[str, tuple[str, ...]], tensors: Tensors, prefixes: tuple[str, ...]) -> None:
    wanted = {part for parts in names.values() for part in parts}
    missing = sorted(wanted - tensors.keys())
    if len(missing) == len(wanted):
        raise WeightsError(
            f"no image tower found among {len(tensors)} tensors{_such_as(sorted(tensors))}; expected visual.*, "
            "as open_clip names it, or vision_model.*, as transformers does"
        )
    if missing:
        raise WeightsError(f"{len(missing)} of {len(wanted)} parameters are missing{_such_as(missing)}")
    extra = sorted(name for name in tensors.keys() - wanted - {_NOT_LEARNT} if name.startswith(prefixes))
    if extra:
        raise WeightsError(f"{len(extra)} parameters more than expected{_such_as(extra)}")


def _such_as(names: list[str]) -> str:
    return f" (such as {', '.join(name[:100] for name in names[:3])})" if names else ""


def _assemble(parts: tuple[str, ...], tensors: Tensors, like: torch.Tensor) -> torch.Tensor:
    """One tensor of the state from its parts in the checkpoint, in memory of its own."""
    transposed = parts == (_OUTER["proj"],)  # a Linear there, a right factor here
    shape = list(reversed(like.shape)) if transposed else list(like.shape)
    if len(parts) > 1:
        shape[0] //= len(parts)
    values = []
    for name in parts:
        with _reading(name):
            value = _checked(name, tensors[name](), shape, like)
        values.append(value.T if transposed else value)
    return torch.cat(values) if len(values) > 1 else values[0]


def _checked(name: str, value: torch.Tensor, shape: list[int], like: torch.Tensor) -> torch.Tensor:
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


def _check_config(file: Path, section: str, name: str, default: object, wanted: object) -> None:
    with _reading(file.name), contextlib.suppress(FileNotFoundError):
        config = json.loads(read_bounded(file, _CONFIG_BYTES))
        found = config.get(section, config).get(name, default)
        if found != wanted:
            raise WeightsError(f"{file.name} says {name} {str(found)[:60]}, expected {wanted}")
