"""What is in weight files? They come from strangers: of pickles torch admits nothing but tensors and containers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
Tensor: TypeAlias = tuple[str, Callable[[], torch.Tensor]]
"""With its own name, where it is known by another."""

_CONFIG_BYTES = 1 << 20
_LARGEST_ARCHIVE, _LARGEST_OLD = 16 << 30, 3 << 30  # bytes; the old format is read as a whole
_TORCH_SCRIPT = (
    "a TorchScript archive is a program; expected a state dict: "
    "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'clip.pt') makes one of a file you trust"
)
_OPEN_CLIPS = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (r"^(vision_model|dinov2)\.", ""),
        (r"^embeddings\.(class_embedding|cls_token)$", "class_embedding"),
        (r"^embeddings\.position_embedding(s|\.weight)$", "positional_embedding"),
        (r"^embeddings\.patch_embedding(s\.projection)?\.", "conv1."),
        (r"^pre_layrnorm\.", "ln_pre."),  # their spelling
        (r"^post_layernorm\.", "ln_post."),
        (r"^visual_projection\.weight$", "proj"),
        (r"^encoder\.layers?\.", "transformer.resblocks."),
        (r"\.(layer_)?norm([12])\.", r".ln_\2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls_\1.gamma"),
        (r"\.(self_attn|attention(\.attention)?)\.([qkv])(uery|ey|alue|_proj)\.", r".attn.\3."),
        (r"\.(self_attn\.out_proj|attention\.(output\.dense|o_proj))\.", ".attn.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    )
)
"""From transformers' names of CLIP, DINOv2 and SigLIP to those of open_clip's image tower."""
_unread = re.compile(r"embeddings\.(position_ids|mask_token)$|(layernorm|ln_post|head|classifier)\.").match
"""What features do not come of: 0, 1, 2, ... that older transformers saved; the last LayerNorm and what follows it."""


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
    tensors = {name.replace("_orig_mod.", ""): read for name, read in tensors.items()}  # saved from torch.compile
    if all(name.startswith("module.") for name in tensors):  # saved from DistributedDataParallel
        tensors = {name.removeprefix("module."): read for name, read in tensors.items()}
    if any(re.match(r"(vision_model\.|dinov2\.)?embeddings\.", name) for name in tensors):
        if spec.tower is None:
            raise WeightsError("parameters are named as in transformers (vision_model.*), expected open_clip's")
        found = {ours: tensor for ours, tensor in _of_transformers(tensors) if ours in expected or not _unread(ours)}
        return _assembled(found, expected)
    if weights.tag is None:  # of a tag, open_clip itself knows the configuration
        _check_activation(weights.files[0].with_name("open_clip_config.json"), quick_gelu)
    prefix = "visual." if any(name.startswith("visual.") for name in tensors) else ""
    found = {name.removeprefix(prefix): (name, tensors[name]) for name in tensors if name.startswith(prefix)}
    return _assembled(found, expected, prefix)


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


def _of_transformers(tensors: Tensors) -> Iterator[tuple[str, Tensor]]:
    """An image tower's tensors by open_clip's names, query, key and value apart; those of a text tower are left out."""
    whole = tuple(home for home in ("vision_model.", "dinov2.") if any(name.startswith(home) for name in tensors))
    for name, read in tensors.items():
        if whole and not name.startswith((*whole, "visual_projection.")):
            continue
        ours = name
        for old, new in _OPEN_CLIPS:
            ours = old.sub(new, ours)
        yield ours, (name, read)


def _assembled(
    found: Mapping[str, Tensor], expected: Mapping[str, torch.Tensor], prefix: str = ""
) -> dict[str, torch.Tensor]:
    parts = {name: _parts(name, found) for name in expected}
    wanted = {part for each in parts.values() for part in each}
    missing = sorted(wanted - found.keys())
    if len(missing) == len(wanted):
        raise WeightsError(
            f"no image tower found among {len(found)} tensors{_such_as(sorted(found))}; expected visual.*, "
            "as open_clip names it, or vision_model.* or embeddings.*, as transformers does"
        )
    if missing:
        told = _such_as([prefix + name for name in missing])
        raise WeightsError(f"{len(missing)} of {len(wanted)} parameters are missing{told}")
    extra = sorted(found[name][0] for name in found.keys() - wanted)
    if extra:
        raise WeightsError(f"{len(extra)} parameters more than expected{_such_as(extra)}")
    return {name: _assemble([found[part] for part in parts[name]], like) for name, like in expected.items()}


def _parts(name: str, found: Mapping[str, Tensor]) -> list[str]:
    """Query, key and value, where they lie apart."""
    home, _, kind = name.partition("in_proj_")
    return [f"{home}{part}.{kind}" for part in "qkv"] if f"{home}q.{kind}" in found else [name]


def _such_as(names: list[str]) -> str:
    return f" (such as {', '.join(name[:100] for name in names[:3])})" if names else ""


def _assemble(parts: Sequence[Tensor], like: torch.Tensor) -> torch.Tensor:
    """One tensor of the state from its parts in the checkpoint, in memory of its own."""
    transposed = parts[0][0] == "visual_projection.weight"  # a Linear there, a right factor here
    shape = list(like.shape)[:: -1 if transposed else 1]
    if len(parts) > 1:
        shape[0] //= len(parts)
    values = []
    for name, read in parts:
        with _reading(name):
            value = _checked(name, read(), shape, like)
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


def _check_activation(file: Path, quick_gelu: bool) -> None:
    with _reading(file.name), contextlib.suppress(FileNotFoundError):
        config = json.loads(read_bounded(file, _CONFIG_BYTES))
        found = config.get("model_cfg", config).get("quick_gelu", False)
        if found != quick_gelu:
            raise WeightsError(f"{file.name} says quick_gelu {str(found)[:60]}, expected {quick_gelu}")
