"""One run's settings as a value: frozen, validated once, passed down explicitly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpupeak.errors import ConfigError
from gpupeak.types import FALLBACKS, PEAK_SOURCES, SAMPLINGS, STREAMS

__all__ = ["DECODERS", "SPLITS", "ExtractConfig"]

SPLITS = ("test", "train", "all")
_LONGEST_SECONDS = 86_400  # a day; the system waits no longer than some weeks
DECODERS = ("auto", "nvdec", "cpu", "hybrid")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig:
    """What `gpupeak.extract` is asked to do; the command line's options, one to one.

    A setting that is None was not given: a dataset's own entry in `config_file` is asked next, then
    the default named here.

    Args:
        datasets: names out of the dataset table; empty means the nine of MER-UniBench, or the one
            corpus that `videos` and `name` describe.
        dataset_root: what the table's paths are relative to. Default: the current directory.
        mer_factory_output: the directory that holds the action-unit directories.
        output_root: features go to `<output_root>/<dataset>/frame_<encoder>_<sampling>_<n>frms/`.
        videos, name, aus: a corpus of one's own: a directory of videos or one video, the name of the
            corpus, and the directory of its action-unit files.
        samples: a list of sample names (.txt, .csv, .json or .npz) to restrict to; for a corpus of
            one's own, the list of its samples.
        encoder: `CLIP_VIT_LARGE` or `open_clip:<model>[/<tag>]`.
        weights: an HF directory, an open_clip state dict, `openai`, or `random:SEED`; None is the
            encoder's own default (`openai`, or the tag of `encoder`).
        n_frms: frames a sample. Default 8.
        stream: one of `types.STREAMS`. Faces are looked for in `openface_face` beside the directory of the videos.
        sampling: one of `types.SAMPLINGS`. Default `emotion_peak`; faces are sampled uniformly.
        fallback: one of `types.FALLBACKS`. Default `uniform`; given explicitly it also allows a
            dataset in which no sample has a usable peak.
        peak_source: one of `types.PEAK_SOURCES`, or `auto`.
        seed: what `headtail` draws from.
        device: `auto`, `cpu` or `cuda:N`.
        decoder: one of `DECODERS`: `cpu` decodes on the CPU's cores, `nvdec` on the GPU what NVDEC takes,
            `hybrid` on both; `auto` measures where there is a choice.
        batch_size: samples encoded at once; None is the device's own default.
        workers: decoding processes; None is one a core.
        time_limit: seconds one sample may take to decode before its worker is replaced.
        overwrite: extract what is already there, too.
        limit: at most so many samples a dataset.
        split: one of `SPLITS`.
        fsync: have every file on disk before it counts as saved (against power loss, not only kill -9).
        config_file: a TOML or YAML file that adds to the dataset table or overrides it.
    """

    datasets: tuple[str, ...] = ()
    dataset_root: Path | None = None
    mer_factory_output: Path | None = None
    output_root: Path = Path("preextracted_features")
    videos: Path | None = None
    name: str | None = None
    aus: Path | None = None
    samples: Path | None = None
    encoder: str = "CLIP_VIT_LARGE"
    weights: str | None = None
    n_frms: int | None = None
    stream: str = "frame"
    sampling: str | None = None
    fallback: str | None = None
    peak_source: str = "auto"
    seed: int = 0
    device: str = "auto"
    decoder: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    time_limit: float = 120.0
    overwrite: bool = False
    limit: int | None = None
    split: str = "test"
    fsync: bool = False
    config_file: Path | None = None

    def __post_init__(self) -> None:
        _one_of("sampling", self.sampling, SAMPLINGS)
        _one_of("stream", self.stream, STREAMS)
        if self.stream != "frame" and self.sampling not in (None, "uniform"):
            raise ConfigError(f"sampling is {self.sampling!r}, expected uniform: AffectGPT samples faces so")
        _one_of("fallback", self.fallback, FALLBACKS)
        _one_of("peak source", self.peak_source, ("auto", *PEAK_SOURCES))
        _one_of("split", self.split, SPLITS)
        _one_of("decoder", self.decoder, DECODERS)
        for name, value in (
            ("n-frms", self.n_frms),
            ("batch-size", self.batch_size),
            ("workers", self.workers),
            ("limit", self.limit),
        ):
            if value is not None and not (_is_whole(value) and value >= 1):
                raise ConfigError(f"{name} is {value!r}, expected a whole number of at least 1")
        if not _is_whole(self.seed):
            raise ConfigError(f"seed is {self.seed!r}, expected a whole number")
        # A number that is none compares false: it is refused here, too.
        if not isinstance(self.time_limit, (int, float)) or not 0 < self.time_limit <= _LONGEST_SECONDS:
            raise ConfigError(f"time-limit is {self.time_limit!r}, expected more than 0 and at most {_LONGEST_SECONDS}")
        if isinstance(self.datasets, str):
            raise ConfigError(f"datasets is the one word {self.datasets!r}, expected a tuple of names")
        if not isinstance(self.device, str):
            raise ConfigError(f"device is {self.device!r}, expected auto, cpu or cuda:N")
        if self.device not in ("auto", "cpu") and not (
            self.device == "cuda" or (self.device.startswith("cuda:") and self.device[5:].isdecimal())
        ):
            raise ConfigError(f"device is {self.device!r}, expected auto, cpu or cuda:N")
        if (self.videos is None) != (self.name is None):
            raise ConfigError("a corpus of your own takes both --videos and --name")
        if self.videos is not None and self.datasets:
            raise ConfigError(f"--videos describes one corpus of your own; it cannot be joined with {self.datasets[0]}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")
