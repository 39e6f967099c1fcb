"""The values that flow down the line. Importing this module imports no torch.

Sample -> FramePlan -> FrameBatch -> FeatureBatch -> Saved | Failed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

SAMPLINGS = ("emotion_peak", "uniform", "headtail")
FALLBACKS = ("uniform", "middle", "fail")
STREAMS = ("frame", "face", "face-rgb")
"""Frames, or the faces that OpenFace cut out, with channels as stored (BGR, as in AffectGPT) or swapped to RGB."""
STAGES = ("find", "plan", "decode", "encode", "write")
"""The stages at which a sample can fail."""
MOST_SHARDS = 99_999

Seconds: TypeAlias = Mapping[str, float]
"""Stage name -> seconds spent on one sample; a batched stage's is its batch time over its samples."""
Span: TypeAlias = tuple[int, int]
"""Rows `start .. stop - 1` of a batch: one sample's frames."""


@dataclass(frozen=True, slots=True)
class SamplingRule:
    """How the frames of a sample are chosen: `n` of them by `method`, one of `SAMPLINGS`.

    `fallback` is what `emotion_peak` does without a usable peak, whose source is one of `peaks.PEAK_SOURCES`, or
    "auto"; `headtail` draws from `seed` and the sample's name. Of rows that tell the action units of a frame, those of
    the person `face` are taken, with at least `min_confidence`, without AU45 if `no_blinks`, and each intensity is the
    median over `smooth` frames.
    """

    method: str = "emotion_peak"
    n: int = 8
    fallback: str = "uniform"
    peak_source: str = "auto"
    seed: int = 0
    face: int | None = None
    min_confidence: float | None = None
    no_blinks: bool = False
    smooth: int | None = None

    def __post_init__(self) -> None:
        _one_of("method", self.method, SAMPLINGS)
        _one_of("fallback", self.fallback, FALLBACKS)
        if self.n < 1:
            raise ValueError(f"n is {self.n}, expected at least 1")


@dataclass(frozen=True, slots=True, order=True)
class Url:
    """A file or directory in a store that fsspec reaches, as `str` shows it: `s3://bucket/directory/file`.

    Joins and takes apart like a `Path`; `storage.places.place` makes one of text.
    """

    protocol: str
    where: str

    def __str__(self) -> str:
        return f"{self.protocol}://{self.where}"

    def __truediv__(self, other: Path | Url | str) -> Path | Url:
        if isinstance(other, Url) or Path(other).is_absolute():
            return other if isinstance(other, Url) else Path(other)
        parts = PurePosixPath(other).parts
        return Url(self.protocol, "/".join((self.where, *parts)))

    def __rtruediv__(self, other: Path) -> Url:
        return self

    @property
    def name(self) -> str:
        return self.where.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> Url:
        return Url(self.protocol, self.where.rpartition("/")[0])

    def child(self, name: str) -> Url:
        return Url(self.protocol, f"{self.where}/{name}")

    def is_below(self, other: Url) -> bool:
        return self.protocol == other.protocol and self.where.startswith(f"{other.where}/")


Place: TypeAlias = Path | Url
"""Where something lies: on this machine, or in a store."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a store, as it was listed; `size` is in bytes, `version` its ETag, or its time if it has none."""

    url: Url
    size: int
    version: str = ""

    @property
    def stamp(self) -> FileStamp:
        return FileStamp(str(self.url), self.size, self.version)


@dataclass(frozen=True, slots=True)
class Sample:
    """One entry of a sample list: what to look for, and where its features go.

    `video` is None when no file was found, the `.npy` file of a face stream. `au_dirs` are tried in this order.
    `remote` are those of its files that have to be fetched. One `on_cpu` is not to be decoded on a GPU.
    """

    dataset: str
    name: str
    video: Place | None
    au_dirs: tuple[Place, ...]
    rule: SamplingRule
    target: Place
    stream: str = "frame"
    remote: tuple[RemoteFile, ...] = ()
    on_cpu: bool = False

    def __post_init__(self) -> None:
        _one_of("stream", self.stream, STREAMS)

    def __str__(self) -> str:
        return f"{self.dataset}/{self.name}"


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `index`, from 0, of the `count` that divide a run."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_SHARDS:
            raise ValueError(f"--num-shards is {self.count}, expected 1 to {MOST_SHARDS}")
        if not 0 <= self.index < self.count:
            raise ValueError(f"--shard-index is {self.index}, expected 0 to {self.count - 1}")

    def __str__(self) -> str:
        return f"{self.index} of {self.count}"

    @property
    def tag(self) -> str:
        return f"{self.index:05}-of-{self.count:05}"


@dataclass(frozen=True, slots=True)
class Peak:
    """The emotional peak an action-unit file names, as 0-based frame numbers in presentation order.

    `before`, `after` and `total` are the file's own, None where it has none; `rows` is of how many frames it tells.
    `face` says which of several people it is of, and why.
    """

    index: int
    before: int | None
    after: int | None
    total: int | None
    source: str
    file: Place
    rows: int | None = None
    face: str | None = None


@dataclass(frozen=True, slots=True)
class NoPeak:
    """Why a sample has no usable peak: `reason` is one of a few, for counting; `detail` names the file."""

    reason: str
    detail: str


class FileStamp(NamedTuple):
    """A file as it was when it was read: its size in bytes, and as `version` its mtime in ns, in a store what its
    listing tells of that. `crc32` is of parts of a video."""

    file: str
    size: int
    version: int | str
    crc32: int | None = None


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What a decoder has to know of a video's pictures beside their size.

    `bt709` and `full_range` tell how its colours are coded, `pix_fmt` how its samples are laid out; `rotation` is
    counter-clockwise in degrees and makes a picture upright.
    """

    bt709: bool
    full_range: bool
    rotation: int
    pix_fmt: str


@dataclass(frozen=True, slots=True)
class FramePlan:
    """Which frames of a sample's video are wanted, and why.

    `indices` are `rule.n` ascending frame numbers below `frames`, repeats allowed. `fallback` says why the rule's
    fallback was taken, `clamp` what was clamped into the video. `recounted`: the video's packets tell other frames than
    decoding delivers, by which these are numbered. `warnings` say what the sample's user should look at. `files` are
    those it was made of: the video, then every action-unit file of the sample.
    """

    sample: Sample
    indices: tuple[int, ...]
    frames: int
    codec: str
    peak: Peak | None = None
    fallback: NoPeak | None = None
    clamp: str | None = None
    video: VideoFacts | None = None
    recounted: bool = False
    warnings: tuple[str, ...] = ()
    files: tuple[FileStamp, ...] = ()

    def __post_init__(self) -> None:
        if len(self.indices) != self.sample.rule.n:
            raise ValueError(f"{self.sample}: {len(self.indices)} indices planned, expected {self.sample.rule.n}")
        if any(not 0 <= i < self.frames for i in self.indices):
            raise ValueError(f"{self.sample}: indices {self.indices} planned, video has {self.frames}")

    @property
    def unique(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.indices)))

    @property
    def gather(self) -> tuple[int, ...]:
        """For each of `indices`, its place in `unique`."""
        place = {index: row for row, index in enumerate(self.unique)}
        return tuple(place[index] for index in self.indices)


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Decoded frames: `pixels` is uint8 RGB `[R, size, size, 3]`, `spans[i]` the `rule.n` rows of `plans[i]`.

    A NumPy array on the host, or a torch tensor on a device that is filled when the `torch.cuda.Event` in `ready` has
    passed. The memory may be borrowed from the decoder: the last reader of `pixels` calls `release`, once.
    """

    plans: tuple[FramePlan, ...]
    pixels: npt.NDArray[np.uint8] | torch.Tensor
    spans: tuple[Span, ...]
    seconds: tuple[Seconds, ...]
    release: Callable[[], None] = field(default=lambda: None, compare=False)
    ready: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
            raise ValueError(f"pixels are {shape}, expected [rows, size, size, 3]")
        if not str(self.pixels.dtype).endswith("uint8"):
            raise ValueError(f"pixels are {self.pixels.dtype}, expected uint8")
        _check_spans(self.plans, self.spans, self.seconds, rows=shape[0])


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Image features: `features` is float32 or float16 `[R, D]` on the host, `spans[i]` the rows of `plans[i]`.

    The memory may be borrowed from the encoder: the writer calls `release` when every file of the batch is on disk.
    """

    plans: tuple[FramePlan, ...]
    features: npt.NDArray[np.floating[Any]]
    spans: tuple[Span, ...]
    seconds: tuple[Seconds, ...]
    release: Callable[[], None] = field(default=lambda: None, compare=False)

    def __post_init__(self) -> None:
        if self.features.ndim != 2:
            raise ValueError(f"features are {self.features.shape}, expected [rows, D]")
        _check_spans(self.plans, self.spans, self.seconds, rows=self.features.shape[0])


@dataclass(frozen=True, slots=True)
class Saved:
    """One sample's features are on disk under `plan.sample.target`; `crc32` is that of their rows' bytes."""

    plan: FramePlan
    seconds: Seconds
    crc32: int | None = None

    @property
    def sample(self) -> Sample:
        return self.plan.sample


@dataclass(frozen=True, slots=True)
class Failed:
    """One sample has no features, and this is why. `plan` is there if the sample got that far."""

    sample: Sample
    stage: str
    reason: str
    plan: FramePlan | None = None

    def __post_init__(self) -> None:
        _one_of("stage", self.stage, STAGES)


Outcome: TypeAlias = Saved | Failed


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")


def _check_spans(
    plans: tuple[FramePlan, ...], spans: tuple[Span, ...], seconds: tuple[Seconds, ...], rows: int
) -> None:
    if not len(plans) == len(spans) == len(seconds):
        raise ValueError(f"{len(plans)} plans, {len(spans)} spans and {len(seconds)} timings, expected one each")
    for plan, (start, stop) in zip(plans, spans, strict=True):
        if not 0 <= start <= stop <= rows or stop - start != plan.sample.rule.n:
            raise ValueError(f"{plan.sample}: rows {start}..{stop} of {rows}, expected {plan.sample.rule.n} rows")
