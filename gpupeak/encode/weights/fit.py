"""Do weights fit an encoder, by the files beside them and what their tensors are called? Asked without torch."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from gpupeak.encode.weights.identity import WeightsId
from gpupeak.encoders import EncoderSpec, TowerShape, hf_tower
from gpupeak.errors import CUT_SHORT, ConfigError, WeightsError, counted
from gpupeak.storage.files import read_bounded

_TRANSFORMERS = re.compile(r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)")  # as it names files
_CONFIG_BYTES = 1 << 20
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


@contextlib.contextmanager
def fitting(spec: EncoderSpec, weights: WeightsId) -> Iterator[None]:
    """Whatever is wrong with the weights within is a WeightsError that names them and the encoder."""
    try:
        yield
    except (ConfigError, WeightsError) as error:
        raise WeightsError(f"weights {weights.source} do not fit {spec.name}: {error}") from error


def tower_shape(named: TowerShape, found: WeightsId) -> TowerShape:
    """`named`, but for pictures as the files beside transformers' weights tell of them. Raises ConfigError."""
    home = found.files[0].parent
    if not _TRANSFORMERS.fullmatch(found.files[0].name) or not (home / "config.json").exists():
        return named
    told = hf_tower(home, named)
    for name, value in _compared(told).items():
        if value != (wanted := _compared(named)[name]):
            raise ConfigError(f"config.json says {name} {value}, expected {wanted}")
    return told


def _compared(shape: TowerShape) -> dict[str, object]:
    sizes = ("patch", "width", "layers", "heads", "dim", "hidden")
    return {**asdict(shape.family), **{name: getattr(shape, name) for name in sizes}}


def parameters(shape: TowerShape) -> dict[str, tuple[int, ...]]:
    """The shapes of a tower's parameters, named as in open_clip's visual tower."""
    width, hidden, family = shape.width, shape.hidden, shape.family
    positions = (shape.trained // shape.patch) ** 2 + family.class_token
    shapes: dict[str, tuple[int, ...]] = {"class_embedding": (width,)} if family.class_token else {}
    shapes |= {"positional_embedding": (positions, width), "conv1.weight": (width, 3, shape.patch, shape.patch)}
    biased: dict[str, tuple[int, ...]] = {"ln_pre.": (width,)} if family.pre_norm else {}
    if not family.pre_norm:
        shapes["conv1.bias"] = (width,)
    if family.pooling == "class":
        biased["ln_post."] = (width,)
        shapes["proj"] = (width, shape.dim)
    for layer in range(shape.layers):
        block = f"transformer.resblocks.{layer}."
        biased |= {f"{block}ln_1.": (width,), f"{block}attn.in_proj_": (3 * width, width)}
        biased |= {f"{block}ln_2.": (width,), f"{block}attn.out_proj.": (width, width)}
        biased |= {f"{block}mlp.c_fc.": (hidden, width), f"{block}mlp.c_proj.": (width, hidden)}
        if family.layer_scale:
            shapes |= {f"{block}ls_1.gamma": (width,), f"{block}ls_2.gamma": (width,)}
    for name, sizes in biased.items():
        shapes |= {f"{name}weight": sizes, f"{name}bias": sizes[:1]}
    return shapes


def fit(
    spec: EncoderSpec, weights: WeightsId, names: Collection[str], expected: Collection[str], quick_gelu: bool
) -> dict[str, list[str]]:
    """Which of the tensors `names` each expected parameter is made of: one, or query, key and value.

    `quick_gelu` is the encoder's activation. Raises WeightsError.
    """
    own = {name.replace("_orig_mod.", ""): name for name in names}  # saved from torch.compile
    if all(name.startswith("module.") for name in own):  # saved from DistributedDataParallel
        own = {name.removeprefix("module."): theirs for name, theirs in own.items()}
    prefix = ""
    if any(re.match(r"(vision_model\.|dinov2\.)?embeddings\.", name) for name in own):
        if spec.tower is None:
            raise WeightsError("parameters are named as in transformers (vision_model.*), expected open_clip's")
        ours = _of_transformers(own)
        found = {name: theirs for name, theirs in ours.items() if name in expected or not _unread(name)}
    else:
        if weights.tag is None:  # of a tag, open_clip itself knows the configuration
            _check_activation(weights.files[0].with_name("open_clip_config.json"), quick_gelu)
        prefix = "visual." if any(name.startswith("visual.") for name in own) else ""
        found = {name.removeprefix(prefix): theirs for name, theirs in own.items() if name.startswith(prefix)}
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
        raise WeightsError(f"{len(missing)} of {counted(len(wanted), 'parameter')} missing{told}")
    extra = sorted(found[name] for name in found.keys() - wanted)
    if extra:
        raise WeightsError(f"{counted(len(extra), 'parameter')} more than expected{_such_as(extra)}")
    return {name: [found[part] for part in each] for name, each in parts.items()}


def _of_transformers(own: Mapping[str, str]) -> dict[str, str]:
    """An image tower's tensors by open_clip's names, query, key and value apart; those of a text tower are left out."""
    whole = tuple(home for home in ("vision_model.", "dinov2.") if any(name.startswith(home) for name in own))
    found = {}
    for name, theirs in own.items():
        if whole and not name.startswith((*whole, "visual_projection.")):
            continue
        for old, new in _OPEN_CLIPS:
            name = old.sub(new, name)
        found[name] = theirs
    return found


def _parts(name: str, found: Collection[str]) -> list[str]:
    """Query, key and value, where they lie apart."""
    home, _, kind = name.partition("in_proj_")
    return [f"{home}{part}.{kind}" for part in "qkv"] if f"{home}q.{kind}" in found else [name]


def _such_as(names: list[str]) -> str:
    return f" (such as {', '.join(name[:100] for name in names[:3])})" if names else ""


def _check_activation(file: Path, quick_gelu: bool) -> None:
    with explained(file.name), contextlib.suppress(FileNotFoundError):
        config = json.loads(read_bounded(file, _CONFIG_BYTES))
        found = config.get("model_cfg", config).get("quick_gelu", False)
        if found != quick_gelu:
            raise WeightsError(f"{file.name} says quick_gelu {str(found)[:60]}, expected {quick_gelu}")


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever reading `what` raises is a WeightsError."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if CUT_SHORT.search(reason):
            reason = "it is cut short: copy or fetch it again"
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to run what is in the file
            reason = "it is no checkpoint, or holds more than tensors, which is never run"
        raise WeightsError(f"{what} cannot be read: {reason}") from error
