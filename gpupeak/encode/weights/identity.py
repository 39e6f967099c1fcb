"""Which weights are meant, where do they lie, and what is their SHA-256? Answered without importing torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from gpupeak.encode.weights import cache
from gpupeak.encoders import EncoderSpec, has_weights, pretrained_tag
from gpupeak.errors import WeightsError, mistaken
from gpupeak.storage.files import expanded, read_bounded

INSTEAD = "an HF directory, a state dict file, or random:SEED"
_RANDOM = re.compile(r"random:([0-9]{1,18})")
_FILES = (
    "open_clip_model.safetensors",  # first: beside it, model.safetensors is transformers' or timm's
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_INDEX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class WeightsId:
    """Weights that `--weights` stands for: random ones of a `seed`, or `files`; open_clip fetches those of a `tag`.

    `source` is what was given, made comparable: `random:7`, a tag, or an absolute path. `sha256` is that of the file;
    of several, that of their own, a line each, in the order of their names (`sha256sum FILES | cut -c1-64 |
    sha256sum`). `files` are in that order; there are none of a tag that was not fetched yet.
    """

    source: str
    sha256: str | None = None
    files: tuple[Path, ...] = ()
    seed: int | None = None
    tag: str | None = None


def meaningless(weights: object) -> list[str]:
    """What is to be said of features of these weights, as `run.json` names them: nothing, unless they are random."""
    return [f"weights {weights}: these features mean nothing"] if str(weights).startswith("random:") else []


def identify(spec: EncoderSpec, weights: str | None) -> WeightsId:
    """`locate`, with the SHA-256 of what was found. Raises WeightsError, also where a file cannot be read."""
    found = locate(spec, weights)
    try:
        for file in found.files:
            _refuse_others(file)
        digests = [cache.file_sha256(file) for file in found.files]
    except OSError as error:
        raise WeightsError(f"--weights {found.source}: cannot be read: {error.strerror or error}") from error
    if len(digests) < 2:
        return replace(found, sha256=digests[0] if digests else None)
    lines = "".join(f"{digest}\n" for digest in digests)
    return replace(found, sha256=hashlib.sha256(lines.encode()).hexdigest())


def _refuse_others(file: Path) -> None:
    """What is no checkpoint by its first bytes is refused before its SHA-256 is taken for that of other weights."""
    with file.open("rb") as stream:
        start = stream.read(100)
    if not (start.startswith((b"PK", b"\x80")) or start[8:9] == b"{"):  # torch's two formats, and safetensors
        told = mistaken(start) or "is neither safetensors nor what torch.save writes"
        raise WeightsError(f"--weights {file}: {told}")


def locate(spec: EncoderSpec, weights: str | None) -> WeightsId:
    """Find what `weights` means, without reading or hashing it; None is the encoder's own tag. Raises WeightsError."""
    weights = weights if weights is not None else spec.tag or spec.home
    if weights is None:
        of_model = f"{spec.name}/TAG, or " if spec.model else ""
        raise WeightsError(f"{spec.name} names no pretrained tag: give {of_model}as --weights {INSTEAD}")
    if spec.model and weights in ("openai", spec.tag):
        return _tagged(spec, weights)
    if weights == "random" or weights.startswith("random:"):
        match = _RANDOM.fullmatch(weights)
        if match is None:
            raise WeightsError(f"--weights is {weights!r}, expected random:SEED with a whole number, such as random:0")
        return WeightsId(f"random:{int(match[1])}", seed=int(match[1]))
    path = expanded(weights).absolute()
    if weights and os.path.exists(path):  # noqa: PTH110 - never raises
        return WeightsId(str(path), files=_weight_files(path))
    if spec.model and (tag := pretrained_tag(weights)) and has_weights(tag):
        return _tagged(spec, tag)
    raise WeightsError(
        f"--weights {weights!r}: no such file or directory; expected {'openai, ' * bool(spec.model)}{INSTEAD}"
    )


def _tagged(spec: EncoderSpec, tag: str) -> WeightsId:
    file = cache.tag_file(spec.model, tag)
    return WeightsId(tag, tag=tag, files=() if file is None else (file,))


def _weight_files(path: Path) -> tuple[Path, ...]:
    if path.is_dir():
        there = [path / name for name in _FILES if (path / name).is_file()]
        if not there:
            raise WeightsError(f"--weights {path}: the directory holds none of {', '.join(_FILES)}")
        path = there[0]
    if not path.is_file():
        raise WeightsError(f"--weights {path}: neither a file nor a directory")
    if not path.name.endswith(".index.json"):
        return (path,)
    try:
        # By their names alone: an index of a stranger's points to nothing but what lies beside it.
        names = {Path(name).name for name in json.loads(read_bounded(path, _INDEX_BYTES))["weight_map"].values()}
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"--weights {path}: not the index of a sharded checkpoint: {error}") from error
    shards = tuple(path.parent / name for name in sorted(names))
    if not shards or not all(map(os.path.isfile, shards)):
        raise WeightsError(f"--weights {path}: its shards are not beside it")
    return shards
