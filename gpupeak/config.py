"""One run's settings as a value: frozen, validated once, passed down explicitly."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from gpupeak.errors import ConfigError
from gpupeak.peaks.sources import PEAK_SOURCES
from gpupeak.storage.places import cache_directory
from gpupeak.storage.places import place as parse_place
from gpupeak.types import FALLBACKS, SAMPLINGS, STREAMS, Shard

__all__ = ["DECODERS", "ENGINES", "SPLITS", "ExtractConfig", "parse_size"]

SPLITS = ("test", "train", "all")
_LONGEST_SECONDS = 86_400  # a day; the system waits no longer than some weeks
DECODERS = ("auto", "nvdec", "cpu", "hybrid")
ENGINES = ("ray",)
_DEVICES = re.compile(r"auto|cpu|cuda|cuda:[0-9]{1,4}(,cuda:[0-9]{1,4})*")
_ACTORS = re.compile(r"([0-9]{1,6})(?::([0-9]{1,6}))?")
_ADDRESS = re.compile(r"[^\s/]+")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]?)(i?)B?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig:
    """What `gpupeak.extract` is asked to do; the command line's options, one to one.

    A setting that is None was not given: a dataset's own entry in `config_file` is asked next, then
    the default named here. Where a path or text is taken, it may be the URL of a store that fsspec knows
    (`s3://bucket/directory`), as text.

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
        peak_source: one of `peaks.PEAK_SOURCES`, or `auto`.
        seed: what `headtail` draws from.
        device: `auto`, `cpu`, `cuda:N`, or several GPUs: `cuda:0,cuda:1`.
        decoder: one of `DECODERS`: `cpu` decodes on the CPU's cores, `nvdec` on the GPU what NVDEC takes,
            `hybrid` on both; `auto` measures where there is a choice.
        batch_size: samples encoded at once; None is the device's own default.
        workers: decoding processes; None is one a core.
        time_limit: seconds one sample may take to decode before its worker is replaced.
        engine: None for this machine, or one of `ENGINES`: `ray` runs a line in each of many actors.
        address: of the Ray cluster that this machine is a node of: `auto`, `HOST` or `HOST:PORT`; None starts one
            on this machine alone.
        actors: how many, `N` or `MIN:MAX`. Default: one a GPU, else one a node.
        gpus_per_actor: more than 0 and at most 1, since each runs one line. Default 1 where Ray shows GPUs.
        overwrite: extract what is already there, too.
        limit: at most so many samples a dataset.
        split: one of `SPLITS`.
        fsync: have every file on disk before it counts as saved (against power loss, not only kill -9).
        cache: a local directory for copies of what lies at URLs while they are needed; None is `~/.cache/gpupeak`.
        cache_size: the most bytes of them, for each process that decodes.
        config_file: a TOML or YAML file that adds to the dataset table or overrides it.
        num_shards, shard_index: take one of so many parts of all samples, balanced by the bytes of their videos;
            others may be taken at the same time, into the same directories. None or 1 takes all.
    """

    datasets: tuple[str, ...] = ()
    dataset_root: Path | str | None = None
    mer_factory_output: Path | str | None = None
    output_root: Path | str = Path("preextracted_features")
    videos: Path | str | None = None
    name: str | None = None
    aus: Path | str | None = None
    samples: Path | str | None = None
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
    engine: str | None = None
    address: str | None = None
    actors: str | None = None
    gpus_per_actor: float | None = None
    overwrite: bool = False
    limit: int | None = None
    split: str = "test"
    fsync: bool = False
    cache: Path | None = None
    cache_size: int = 20_000_000_000
    config_file: Path | None = None
    num_shards: int | None = None
    shard_index: int | None = None

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
            ("cache-size", self.cache_size),
        ):
            if value is not None and not (_is_whole(value) and value >= 1):
                raise ConfigError(f"{name} is {value!r}, expected a whole number of at least 1")
            if value is not None and value > sys.maxsize:
                raise ConfigError(f"{name} is {value!r}, expected at most {sys.maxsize:,}")
        if not _is_whole(self.seed):
            raise ConfigError(f"seed is {self.seed!r}, expected a whole number")
        # A number that is none compares false: it is refused here, too.
        if not isinstance(self.time_limit, (int, float)) or not 0 < self.time_limit <= _LONGEST_SECONDS:
            raise ConfigError(f"time-limit is {self.time_limit!r}, expected more than 0 and at most {_LONGEST_SECONDS}")
        if isinstance(self.datasets, str):
            raise ConfigError(f"datasets is the one word {self.datasets!r}, expected a tuple of names")
        self._check_devices()
        self._check_engine()
        if (self.videos is None) != (self.name is None):
            raise ConfigError("a corpus of your own takes both --videos and --name")
        if self.videos is not None and (others := [name for name in self.datasets if name != self.name]):
            raise ConfigError(f"--videos describes one corpus of your own; it cannot be joined with {others[0]}")
        for name, value in (("num-shards", self.num_shards), ("shard-index", self.shard_index)):
            if value is not None and not _is_whole(value):
                raise ConfigError(f"{name} is {value!r}, expected a whole number")
        if self.shard_index is not None:
            if self.num_shards is None:
                raise ConfigError(f"shard-index is {self.shard_index}; num-shards says of how many")
            try:
                Shard(self.shard_index, self.num_shards)
            except ValueError as error:
                raise ConfigError(str(error)) from error
        elif self.num_shards not in (None, 1):
            raise ConfigError(f"num-shards is {self.num_shards}; shard-index says which of them, from 0")
        places = (self.dataset_root, self.mer_factory_output, self.output_root, self.videos, self.aus, self.samples)
        for place in places:
            parse_place(place or ".")  # a URL that cannot be is refused now

    def _check_devices(self) -> None:
        if not isinstance(self.device, str) or not _DEVICES.fullmatch(self.device):
            raise ConfigError(f"device is {self.device!r}, expected auto, cpu or cuda:N, or several: cuda:0,cuda:1")
        numbers = [int(each[5:] or 0) for each in self.device.split(",") if each.startswith("cuda")]
        if len(set(numbers)) < len(numbers):
            raise ConfigError(f"device is {self.device!r}, expected every GPU once")

    def _check_engine(self) -> None:
        _one_of("engine", self.engine, ENGINES)
        if self.engine is None:
            for name, given in (
                ("address", self.address),
                ("actors", self.actors),
                ("gpus-per-actor", self.gpus_per_actor),
            ):
                if given is not None:
                    raise ConfigError(f"{name} is {given!r}, and there is no engine: it goes with --engine ray")
            return
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device is {self.device!r}, expected auto, cpu or cuda: Ray gives each actor its GPU")
        if self.num_shards not in (None, 1):
            raise ConfigError("--num-shards divides a run without an engine; with --engine ray, Ray divides it")
        if self.address is not None and not (isinstance(self.address, str) and _ADDRESS.fullmatch(self.address)):
            raise ConfigError(
                f"address is {self.address!r}, expected auto, HOST or HOST:PORT, on a node of the cluster, not ray://"
            )
        if self.actors is not None:
            bounds = _ACTORS.fullmatch(self.actors) if isinstance(self.actors, str) else None
            if bounds is None or not 1 <= int(bounds[1]) <= int(bounds[2] or bounds[1]):
                raise ConfigError(f"actors is {self.actors!r}, expected N or MIN:MAX, of at least 1")
        share = self.gpus_per_actor
        if share is not None and not (isinstance(share, (int, float)) and 0 < share <= 1):
            raise ConfigError(f"gpus-per-actor is {share!r}, expected more than 0 and at most 1: an actor uses one GPU")
        if share is not None and self.device == "cpu":
            raise ConfigError(f"gpus-per-actor is {share!r}, and device is 'cpu'")

    @property
    def shard(self) -> Shard | None:
        """The part of all samples that is taken, None for all of them."""
        if self.num_shards in (None, 1) or self.shard_index is None:
            return None
        return Shard(self.shard_index, self.num_shards)

    @property
    def cache_directory(self) -> Path:
        """Where copies of what lies in stores are kept while they are needed."""
        return self.cache.expanduser() if self.cache is not None else cache_directory()


def parse_size(text: str) -> int:
    """The bytes that a size such as 20GB, 1.5 TB or 512MiB names.

    Raises:
        ConfigError: it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"size is {text!r}, expected one such as 20GB or 512MiB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2].lower() or " "))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")
