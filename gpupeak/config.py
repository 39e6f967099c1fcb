"""Every option of a run, declared once: name, type, default, help and bounds.

The command line, the checks of `ExtractConfig`, the settings file and docs/options.md are made of it.
"""

# No postponed evaluation of annotations here: an option has the types of its field.
# ruff: noqa: RUF009 - `_option` makes a `dataclasses.field`

import contextlib
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args

from gpupeak.errors import ConfigError
from gpupeak.peaks.sources import PEAK_SOURCES
from gpupeak.storage.places import cache_directory, is_url, place
from gpupeak.types import FALLBACKS, MOST_SHARDS, SAMPLINGS, STREAMS, Shard

SOURCE, SAMPLING, ENCODER, RUN, OUTPUT = "Source", "Sampling", "Encoder", "Run", "Output"
"""The panels of `--help`."""
_COMMANDS = (("pack", "unpack"), ("inspect",), ("verify", "report"), ("extract", "plan", "doctor"))
"""Each of these takes the options of those before it, and more."""
MOST_FRAMES = 1024
"""A sample's, for its frames are in memory together, 150 KB each; a clip of these corpora has 40 to 340."""
OF_EACH = ("samples", "sampling", "n_frms", "fallback")
"""What the section of a dataset in the settings file says before the rest of the file does."""
A_TEXT = "text of 1 to 4,096 characters"
_FLAGS = {
    word: value for value, words in ((True, "1 true yes on"), (False, "0 false no off")) for word in words.split()
}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d+)?) ?([kMGT]?)(i?)B?", re.IGNORECASE)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What there is to know of one field of `ExtractConfig`; a default of None is "not given".

    `types` are `Path` and `str` for a place, which may be a URL. `command` is, of those that take the option, the one
    with the fewest. `told` is the default in words, `form` what is expected, in words. `key` is its name in a
    settings file, if that is not `name`.
    """

    name: str
    types: tuple[Any, ...]
    default: object
    panel: str
    command: str
    metavar: str
    help: str
    told: str
    choices: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    pattern: str | None = None
    form: str = ""
    key: str = ""

    def parsed(self, text: str) -> Any:
        """The value that words mean; the words themselves where they mean none, for `expected` to refuse."""
        if self.metavar == "SIZE" and (size := _SIZE.fullmatch(text.strip())):
            return int(float(size[1]) * (1024 if size[3] else 1000) ** " kmgt".index(size[2].lower() or " "))
        if bool in self.types:
            return _FLAGS.get(text.lower(), text)
        if isinstance(self.default, tuple):
            return tuple(text.replace(",", " ").split()) or text
        if Path in self.types:
            return text if is_url(text) else Path(text)
        for number in (int, float):
            if number in self.types:
                with contextlib.suppress(ValueError):
                    return number(text)
        return text

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return f"--{self.name}"

    @property
    def off(self) -> str:
        """What undoes a flag that the environment or a settings file sets: `--no-overwrite`, `--blinks`."""
        return f"--{self.name[3:] if self.name.startswith('no-') else f'no-{self.name}'}"

    def expected(self, value: Any) -> str | None:
        """What was expected instead of `value`, in words; None if it is fine."""
        if value == self.default and value in (None, ()):  # not given
            return None
        fine, words = True, self.form
        if self.choices:
            fine, words = value in self.choices, f"one of {', '.join(self.choices)}"
        elif int in self.types or float in self.types:
            numbers, words = (int, "a whole number") if int in self.types else ((int, float), "a number")
            fine = isinstance(value, numbers) and not isinstance(value, bool)
            words = self.form or words
            if self.bounds is not None:
                least, most = self.bounds
                fine, words = fine and least <= value <= most, f"{words} from {least:,} to {most:,}"
        elif bool in self.types:
            fine, words = isinstance(value, bool), "true or false"
        elif isinstance(self.default, tuple):
            fine = isinstance(value, (list, tuple)) and len(value) > 0 and all(map(is_text, value))
            words = "a list of names, at least one"
        elif self.pattern is not None:
            fine = isinstance(value, str) and re.fullmatch(self.pattern, value) is not None
        else:
            fine, words = is_text(value), A_TEXT
        return None if fine else words


def _option(default: _T, panel: str, command: str, metavar: str, help: str, told: str | None = None, **more: Any) -> _T:
    """A field of `ExtractConfig`; its default is told as it is unless `told` says otherwise."""
    if told is None:
        told = str(default) if metavar and default is not None else ""
    about = {"panel": panel, "command": command, "metavar": metavar, "help": help, "told": told, **more}
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig:
    """What `gpupeak.extract` is asked to do: the options of the command line, one to one.

    A setting that is None was not given: a dataset's own entry in `config_file` is asked next, then the default that
    is told. A place may be the URL of a store (`s3://bucket/directory`), as text. A value that cannot be meant, or two
    that do not go together, raise a `ConfigError`.
    """

    # fmt: off
    # A table: on the first line where an option belongs, then what is told of it and what it may be.
    datasets: tuple[str, ...] = _option((), SOURCE, "pack", "NAMES",
        "Datasets: one name or several.", "", key="dataset")  # [datasets.NAME] has the other name
    dataset_root: Path | str | None = _option(None, SOURCE, "inspect", "DIR_OR_URL",
        "Holds the datasets.", "the current directory")
    mer_factory_output: Path | str | None = _option(None, SOURCE, "inspect", "DIR_OR_URL",
        "Holds the datasets' action-unit files.")
    split: str = _option("test", SOURCE, "inspect", "SPLIT",
        "test, train or all.", choices=("test", "train", "all"))
    samples: Path | str | None = _option(None, SOURCE, "inspect", "FILE",
        "Take only the samples of this list: .txt, .csv, .json, .npz.")
    limit: int | None = _option(None, SOURCE, "inspect", "N",
        "At most so many samples a dataset.", bounds=(1, 1_000_000_000))
    videos: Path | str | None = _option(None, SOURCE, "inspect", "DIR_OR_URL",
        "A corpus of your own: a directory of videos, or one video.")
    name: str | None = _option(None, SOURCE, "inspect", "NAME",
        "What that corpus is called.")
    aus: Path | str | None = _option(None, SOURCE, "inspect", "DIR_OR_URL",
        "Holds that corpus's action-unit files.")
    config_file: Path | None = _option(None, SOURCE, "pack", "FILE",
        "Datasets and settings of your own, as TOML.", "gpupeak.toml, if it is there", name="config")
    cache: Path | None = _option(None, SOURCE, "inspect", "DIR",
        "Where what is fetched from URLs lies while it is needed.", "~/.cache/gpupeak")
    cache_size: int = _option(20_000_000_000, SOURCE, "inspect", "SIZE",
        "The most that lies there at once.", "20GB", bounds=(1, 10**18), form="bytes (20GB, 512MiB)")

    stream: str = _option("frame", SAMPLING, "pack", "STREAM",
        "What of a video is encoded: frame, or face for what OpenFace cut out (openface_face beside the videos), "
        "face-rgb for the same with its channels swapped.", choices=STREAMS)
    sampling: str | None = _option(None, SAMPLING, "pack", "RULE",
        "How frames are chosen: emotion_peak, uniform or headtail.", "emotion_peak", choices=SAMPLINGS)
    n_frms: int | None = _option(None, SAMPLING, "pack", "N",
        "Frames a sample.", "8", bounds=(1, MOST_FRAMES))
    fallback: str | None = _option(None, SAMPLING, "inspect", "RULE",
        "For a sample without a usable peak: uniform, middle or fail. "
        "Given, a dataset without any usable peak is no error.", "uniform", choices=FALLBACKS)
    peak_source: str = _option("auto", SAMPLING, "inspect", "KIND",
        f"Read peaks only from {', '.join(PEAK_SOURCES[:-1])} or {PEAK_SOURCES[-1]}; auto tries them in this order.",
        choices=("auto", *PEAK_SOURCES))
    face: int | None = _option(None, SAMPLING, "inspect", "ID",
        "Of several people in an action-unit file, the one with this face_id.", "highest summed confidence",
        bounds=(0, 1_000_000))
    min_confidence: float | None = _option(None, SAMPLING, "inspect", "C",
        "Pass over frames with a face of lower confidence; files that tell none have no peak then.", "0",
        bounds=(0, 1))
    no_blinks: bool = _option(False, SAMPLING, "inspect", "",
        "Leave AU45, the blink, out of the sum whose largest is the peak.")
    smooth: int | None = _option(None, SAMPLING, "inspect", "K",
        "Take of that sum the median over K frames, an odd number.", "1", bounds=(1, 1001))
    seed: int = _option(0, SAMPLING, "inspect", "N",
        "What headtail, verify --deep and report draw from.")

    encoder: str = _option("CLIP_VIT_LARGE", ENCODER, "pack", "NAME",
        "CLIP_VIT_LARGE, DINO2_LARGE, SigLIP_SO, hf:DIRECTORY of such a model of Hugging Face's, or "
        "open_clip:MODEL[/TAG].", name="visual-encoder")
    weights: str | None = _option(None, ENCODER, "inspect", "WEIGHTS",
        "A Hugging Face directory, an open_clip file, openai (fetched) or random:SEED.", "openai, TAG, or DIRECTORY")

    device: str = _option("auto", RUN, "inspect", "DEVICE",
        "auto, cpu, cuda:N, or several GPUs: cuda:0,cuda:1.",
        pattern="auto|cpu|cuda|cuda:[0-9]{1,4}(,cuda:[0-9]{1,4})*",
        form="auto, cpu or cuda:N, or several: cuda:0,cuda:1")
    decoder: str = _option("auto", RUN, "inspect", "DECODER",
        "auto, nvdec, cpu, or hybrid for both at once.", choices=("auto", "nvdec", "cpu", "hybrid"))
    batch_size: int | None = _option(None, RUN, "inspect", "N",
        "Samples encoded at once.", "what suits the device", bounds=(1, 4096))
    workers: int | None = _option(None, RUN, "inspect", "N",
        "Decoding processes.", "one a core", bounds=(1, 1024))
    time_limit: float = _option(120.0, RUN, "inspect", "SECONDS",
        "How long a sample may take to decode.", "120",
        bounds=(0.001, 86_400))  # a day; the system waits no longer than some weeks
    num_shards: int | None = _option(None, RUN, "extract", "N",
        "Take one of N parts of all samples; the others may run at the same time, elsewhere.",
        "as SLURM's array or srun says, else 1", bounds=(1, MOST_SHARDS))
    shard_index: int | None = _option(None, RUN, "extract", "I",
        "Which of the N, from 0.")
    engine: str | None = _option(None, RUN, "verify", "ENGINE",
        "ray: run as a Ray job, over many machines. Needs the extra ray.", choices=("ray",))
    address: str | None = _option(None, RUN, "verify", "ADDRESS",
        "The Ray cluster that this machine is a node of: auto, HOST or HOST:PORT.", "one on this machine, for this run",
        pattern=r"[^\s/]+",
        form="auto, HOST or HOST:PORT, on a node of the cluster, not ray://")
    actors: str | None = _option(None, RUN, "verify", "N",
        "Ray actors, each with a line: N or MIN:MAX.", "one a GPU, else one a node",
        pattern="[0-9]{1,4}(:[0-9]{1,4})?", form="N or MIN:MAX, from 1 to 9999")
    gpus_per_actor: float | None = _option(None, RUN, "verify", "GPUS",
        "What of one GPU each takes, such as 0.5.", "1", bounds=(0.01, 1))

    output_root: Path | str = _option(Path("preextracted_features"), OUTPUT, "pack", "DIR_OR_URL",
        "Where the features go.")
    overwrite: bool = _option(False, OUTPUT, "extract", "",
        "Extract what is already there, too.")
    refresh: bool = _option(False, OUTPUT, "extract", "",
        "Extract again what would get other frames now, or has another video than it was made of.")
    fsync: bool = _option(False, OUTPUT, "inspect", "",
        "A file counts as saved when it is safe from power loss.")
    # fmt: on

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if expected := option.expected(value):
                raise refused(option.flag, value, expected)
            if {Path, str} <= set(option.types):
                place(value or ".")  # a URL that cannot be is refused now
        if self.smooth is not None and self.smooth % 2 == 0:
            raise refused("--smooth", self.smooth, "an odd number of frames")
        if self.stream != "frame" and self.sampling not in (None, "uniform"):
            raise refused("--sampling", self.sampling, "uniform: AffectGPT samples faces so")
        numbers = [int(each[5:] or 0) for each in self.device.split(",") if each.startswith("cuda")]
        if len(set(numbers)) < len(numbers):
            raise refused("--device", self.device, "every GPU once")
        if (self.videos is None) != (self.name is None):
            raise ConfigError("a corpus of your own takes both --videos and --name")
        if self.videos is not None and (others := [name for name in self.datasets if name != self.name]):
            raise ConfigError(f"--videos describes one corpus of your own; it cannot be joined with {others[0]}")
        if self.shard_index is not None:
            if self.num_shards is None:
                raise ConfigError(f"--shard-index is {self.shard_index}; --num-shards says of how many")
            try:
                Shard(self.shard_index, self.num_shards)
            except ValueError as error:
                raise ConfigError(str(error)) from error
        elif self.num_shards not in (None, 1):
            raise ConfigError(f"--num-shards is {self.num_shards}; --shard-index says which of them, from 0")
        self._check_engine()

    def _check_engine(self) -> None:
        if self.engine is None:
            for name in ("address", "actors", "gpus_per_actor"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{OPTIONS[name].flag} goes with --engine ray, and there is no engine")
            return
        if self.device not in ("auto", "cpu", "cuda"):
            raise refused("--device", self.device, "auto, cpu or cuda: Ray gives each actor its GPU")
        if self.num_shards not in (None, 1):
            raise ConfigError("--num-shards divides a run without an engine; with --engine ray, Ray divides it")
        least, _, most = (self.actors or "1").partition(":")
        if not 1 <= int(least) <= int(most or least):
            raise refused("--actors", self.actors, OPTIONS["actors"].form)
        if self.gpus_per_actor is not None and self.device == "cpu":
            raise ConfigError(f"--gpus-per-actor is {self.gpus_per_actor!r}, and --device is 'cpu'")

    def words(self) -> list[str]:
        """What a command line says for these settings, of those that are not by default; names of datasets first."""
        words = list(self.datasets)
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if name != "datasets" and value != option.default:
                words += [option.flag, *[str(value)] * (value is not True)]
        return words

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


def refused(name: str, value: object, expected: str) -> ConfigError:
    """What is said of every setting that cannot be meant; `name` is as its place spells it: `--n-frms`, `n_frms`."""
    return ConfigError(f"{name} is {value!r:.100}, expected {expected}")


def is_text(value: object) -> bool:
    """Whether a value is `A_TEXT`, or a path of that length."""
    return isinstance(value, (str, Path)) and 1 <= len(str(value)) <= 4096 and "\0" not in str(value)


OPTIONS = {
    f.name: Option(
        types=get_args(f.type) or (f.type,), default=f.default, **{"name": f.name.replace("_", "-"), **f.metadata}
    )
    for f in fields(ExtractConfig)
}
"""Every option, by its field."""


def options_of(command: str) -> dict[str, Option]:
    """The options that `command` takes, by their fields."""
    (last,) = (place for place, group in enumerate(_COMMANDS) if command in group)
    within = {name for group in _COMMANDS[: last + 1] for name in group}
    return {field: option for field, option in OPTIONS.items() if option.command in within}


def keys_of(field: str) -> tuple[str, ...]:
    """How an option is called in a settings file and, after `GPUPEAK_`, in the environment: `-` is `_` there."""
    return tuple(dict.fromkeys((OPTIONS[field].key or OPTIONS[field].name.replace("-", "_"), field)))
