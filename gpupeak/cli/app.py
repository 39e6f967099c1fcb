"""The command line: options become an `ExtractConfig`, and what it leads to an exit code.

Nothing heavy is imported before a command needs it: `--help` answers without numpy, torch or av.
"""

# No postponed evaluation of annotations here: they are what typer makes the options from.

import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import Parameter, Signature, cleandoc, signature
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpupeak._version import __version__
from gpupeak.errors import ConfigError, GpupeakError, SampleError, UsageError, WriteError

if TYPE_CHECKING:
    from gpupeak.check.survey import Examination
    from gpupeak.cli.display import Display
    from gpupeak.config import ExtractConfig

__all__ = ["main", "own_process"]

_INTERRUPTED = 130
_EPILOG = (
    "Exit codes: 0 all saved or skipped, 1 some samples failed, 2 wrong use or configuration, "
    "3 the run could not go on, 130 interrupted. "
    "With GPUPEAK_TRACEBACK=1 in the environment an error shows where it arose."
)
_SOURCE, _SAMPLING, _ENCODER, _RUN, _OUTPUT = "Source", "Sampling", "Encoder", "Run", "Output"
_CHECKS = "Checks"
_PICTURES = "Pictures"

own_process = False
"""Whether this process runs one command and ends."""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one line on standard error."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name that the locale cannot spell must not end a run
            stream.reconfigure(errors="backslashreplace")
    arguments = _spread_datasets(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        code = app(args=arguments, prog_name="gpupeak", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if "--json" in arguments and isinstance(error, typer.TyperException):
            code, message = _verdict(error)  # of wrong words no command was called that could tell it in JSON
            _print_json({"exit_code": code, "error": message})
        return _complain(error)
    return int(code or 0)


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream was closed: what is opened next would take its number for its own."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # noqa: PERF203 - three times
            os.open(os.devnull, os.O_RDWR)


def _spread_datasets(argv: Sequence[str]) -> list[str]:
    """Let `--datasets` take every word up to the next option, as AffectGPT's guide does; `--options`, too."""
    if argv[:1] == ["inspect"]:
        argv = _name_show(argv)
        takers: tuple[str, ...] = () if argv[1:2] == [] or argv[1].startswith("-") else ("--datasets",)
    elif argv[:1] in (["extract"], ["plan"], ["merge"], ["verify"], ["report"], ["doctor"]):
        takers = ("--datasets", "--show-samples")
    elif argv[:2] == ["config", "check"]:
        takers = ("--dataset", "--datasets", "--options")
    else:
        return list(argv)
    spread: list[str] = []
    taker = ""  # the option that takes words now
    words = 0  # that it has been given
    for place, word in enumerate(argv):
        if word == "--":
            return [*spread, *argv[place:]]
        if word.startswith("-"):
            taker, words = word if word in takers else "", 0
        elif taker:
            if words:
                spread.append(taker)
            words += 1
        spread.append(word)
    return spread


def _name_show(argv: Sequence[str]) -> list[str]:
    """Let `--show` stand alone, for the terminal: the next word is its file if it is called like a picture."""
    named: list[str] = []
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        named.append(word)
        if word == "--show" and following != "-" and not following.lower().endswith(".png"):
            named.append("-")
    return named


def _dataset_names(words: Iterable[str]) -> tuple[str, ...]:
    names = []
    for word in words:
        some = [name.strip() for name in word.split(",") if name.strip()]
        if not some:  # an unset shell variable must not mean all of them
            raise ConfigError(f"dataset is {word!r}, expected a name; without any, all nine are meant")
        names += some
    return tuple(dict.fromkeys(names))


def _option(
    panel: str, help: str, *names: str, metavar: str = "", default: object = None, min: int | None = None
) -> Any:
    """An option of a help panel; `default` is what the help says of it, a flag needs no `metavar`."""
    told = help.replace("[", "\\[") + ("" if default is None else f" [dim]\\[default: {default}][/]")
    return typer.Option(*names, help=told, show_default=False, rich_help_panel=panel, metavar=metavar, min=min)


def _place(text: str | None) -> Path | str | None:
    """What an option names: the URL of a store as it stands, anything else as a path."""
    from gpupeak.storage.places import is_url

    return text if text is None or is_url(text) else Path(text)


def _settings(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(help="Names, apart or joined by commas; none for the nine of MER-UniBench.", metavar="DATASETS"),
    ] = None,
    more_datasets: Annotated[
        list[str] | None, _option(_SOURCE, "Datasets: one name or several.", "--datasets", metavar="NAMES")
    ] = None,
    dataset_root: Annotated[
        str | None, _option(_SOURCE, "Holds the datasets.", metavar="DIR_OR_URL", default="the current directory")
    ] = None,
    mer_factory_output: Annotated[
        str | None, _option(_SOURCE, "Holds the datasets' action-unit files.", metavar="DIR_OR_URL")
    ] = None,
    split: Annotated[str, _option(_SOURCE, "test, train or all.", metavar="SPLIT", default="test")] = "test",
    samples: Annotated[
        str | None, _option(_SOURCE, "Take only the samples of this list: .txt, .csv, .json, .npz.", metavar="FILE")
    ] = None,
    limit: Annotated[int | None, _option(_SOURCE, "At most so many samples a dataset.", metavar="N")] = None,
    videos: Annotated[
        str | None, _option(_SOURCE, "A corpus of your own: a directory of videos, or one video.", metavar="DIR_OR_URL")
    ] = None,
    name: Annotated[str | None, _option(_SOURCE, "What that corpus is called.", metavar="NAME")] = None,
    aus: Annotated[str | None, _option(_SOURCE, "Holds that corpus's action-unit files.", metavar="DIR_OR_URL")] = None,
    config_file: Annotated[
        Path | None, _option(_SOURCE, "Datasets and settings of your own: .toml, .yaml.", "--config", metavar="FILE")
    ] = None,
    stream: Annotated[
        str,
        _option(
            _SAMPLING,
            "What of a video is encoded: frame, or face for what OpenFace cut out (openface_face beside the videos), "
            "face-rgb for the same with its channels swapped.",
            metavar="STREAM",
            default="frame",
        ),
    ] = "frame",
    sampling: Annotated[
        str | None,
        _option(
            _SAMPLING,
            "How frames are chosen: emotion_peak, uniform or headtail.",
            metavar="RULE",
            default="emotion_peak",
        ),
    ] = None,
    n_frms: Annotated[int | None, _option(_SAMPLING, "Frames a sample.", metavar="N", default=8)] = None,
    fallback: Annotated[
        str | None,
        _option(
            _SAMPLING,
            "For a sample without a usable peak: uniform, middle or fail. "
            "Given, a dataset without any usable peak is no error.",
            metavar="RULE",
            default="uniform",
        ),
    ] = None,
    peak_source: Annotated[
        str,
        _option(
            _SAMPLING,
            "Read peaks only from au_info, per_frame, merr_data or openface; auto tries them in this order.",
            metavar="KIND",
            default="auto",
        ),
    ] = "auto",
    seed: Annotated[
        int, _option(_SAMPLING, "What headtail, verify --deep and report draw from.", metavar="N", default=0)
    ] = 0,
    visual_encoder: Annotated[
        str,
        _option(_ENCODER, "CLIP_VIT_LARGE or open_clip:MODEL[/TAG].", metavar="NAME", default="CLIP_VIT_LARGE"),
    ] = "CLIP_VIT_LARGE",
    weights: Annotated[
        str | None,
        _option(
            _ENCODER,
            "A Hugging Face directory, an open_clip file, openai (fetched) or random:SEED.",
            metavar="WEIGHTS",
            default="openai, or TAG",
        ),
    ] = None,
    device: Annotated[
        str, _option(_RUN, "auto, cpu, cuda:N, or several GPUs: cuda:0,cuda:1.", metavar="DEVICE", default="auto")
    ] = "auto",
    decoder: Annotated[
        str,
        _option(_RUN, "auto, nvdec, cpu, or hybrid for both at once.", metavar="DECODER", default="auto"),
    ] = "auto",
    batch_size: Annotated[
        int | None, _option(_RUN, "Samples encoded at once.", metavar="N", default="what suits the device")
    ] = None,
    workers: Annotated[int | None, _option(_RUN, "Decoding processes.", metavar="N", default="one a core")] = None,
    time_limit: Annotated[
        float, _option(_RUN, "How long a sample may take to decode.", metavar="SECONDS", default=120)
    ] = 120.0,
    num_shards: Annotated[
        int | None,
        _option(
            _RUN,
            "Take one of N parts of all samples; the others may run at the same time, elsewhere.",
            metavar="N",
            default="as SLURM's array or srun says, else 1",
        ),
    ] = None,
    shard_index: Annotated[int | None, _option(_RUN, "Which of the N, from 0.", metavar="I")] = None,
    engine: Annotated[
        str | None,
        _option(_RUN, "ray: run as a Ray job, over many machines. Needs the extra ray.", metavar="ENGINE"),
    ] = None,
    address: Annotated[
        str | None,
        _option(
            _RUN,
            "The Ray cluster that this machine is a node of: auto, HOST or HOST:PORT.",
            metavar="ADDRESS",
            default="one on this machine, for this run",
        ),
    ] = None,
    actors: Annotated[
        str | None,
        _option(_RUN, "Ray actors, each with a line: N or MIN:MAX.", metavar="N", default="one a GPU, else one a node"),
    ] = None,
    gpus_per_actor: Annotated[
        float | None, _option(_RUN, "What of a GPU each takes, such as 0.5.", metavar="GPUS", default=1)
    ] = None,
    cache: Annotated[
        Path | None,
        _option(_SOURCE, "Where what is fetched from URLs is kept.", metavar="DIR", default="~/.cache/gpupeak"),
    ] = None,
    cache_size: Annotated[
        str, _option(_SOURCE, "The most that is kept there.", metavar="SIZE", default="20GB")
    ] = "20GB",
    output_root: Annotated[
        str, _option(_OUTPUT, "Where the features go.", metavar="DIR_OR_URL", default="preextracted_features")
    ] = "preextracted_features",
    overwrite: Annotated[bool, _option(_OUTPUT, "Extract what is already there, too.", "--overwrite")] = False,
    fsync: Annotated[
        bool, _option(_OUTPUT, "A file counts as saved when it is safe from power loss.", "--fsync")
    ] = False,
) -> "ExtractConfig":
    """Every option that is a setting of a run, declared once for all commands."""
    from gpupeak.config import ExtractConfig, parse_size

    return ExtractConfig(
        datasets=_dataset_names([*(datasets or ()), *(more_datasets or ())]),
        dataset_root=_place(dataset_root),
        mer_factory_output=_place(mer_factory_output),
        output_root=_place(output_root) or Path(),
        videos=_place(videos),
        name=name,
        aus=_place(aus),
        samples=_place(samples),
        cache=cache,
        cache_size=parse_size(cache_size),
        encoder=visual_encoder,
        weights=weights,
        n_frms=n_frms,
        stream=stream,
        sampling=sampling,
        fallback=fallback,
        peak_source=peak_source,
        seed=seed,
        device=device,
        decoder=decoder,
        batch_size=batch_size,
        workers=workers,
        time_limit=time_limit,
        num_shards=num_shards,
        shard_index=shard_index,
        engine=engine,
        address=address,
        actors=actors,
        gpus_per_actor=gpus_per_actor,
        overwrite=overwrite,
        limit=limit,
        split=split,
        fsync=fsync,
        config_file=config_file,
    )


def _sharded(config: "ExtractConfig", tell: Callable[[str], None]) -> "ExtractConfig":
    """The settings of what SLURM has started as one of several, unless they name a shard themselves."""
    from gpupeak.corpora.shards import slurm_shard

    if config.engine is not None or config.num_shards is not None or (found := slurm_shard(os.environ)) is None:
        return config
    shard, told = found
    tell(f"shard {shard}, by {told}; --num-shards 1 takes all samples")
    return dataclasses.replace(config, num_shards=shard.count, shard_index=shard.index)


_Quiet = Annotated[bool, _option(_OUTPUT, "Only notices, warnings and errors: no progress, no table.", "--quiet", "-q")]
_Json = Annotated[bool, _option(_OUTPUT, "One JSON object on standard output, and nothing else there.", "--json")]


def _command(*without: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make a function a command with the options of `_settings` and its own.

    It is called with the configuration that the shared options make. With `--json` its errors are
    JSON, too.
    """

    def register(command: Callable[..., int]) -> Callable[..., int]:
        shared = [p for p in signature(_settings).parameters.values() if p.name not in without]
        own = [p for p in signature(command).parameters.values() if p.name != "config"]

        def run(**given: Any) -> int:
            extra = {parameter.name: given.pop(parameter.name) for parameter in own}
            with _errors_in_json(extra["as_json"]):
                return command(_settings(**given), **extra)

        keyword_only = Parameter.KEYWORD_ONLY
        run.__signature__ = Signature([p.replace(kind=keyword_only) for p in (*shared, *own)])  # type: ignore[attr-defined]
        paragraphs = cleandoc(command.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        app.command(command.__name__, help=text, epilog=_EPILOG)(run)
        return command

    return register


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"gpupeak {__version__}")
        raise typer.Exit


@app.callback(epilog=_EPILOG)
def _gpupeak(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Emotion-peak CLIP features for AffectGPT: decoded, encoded and saved as .npy."""


@_command()
def extract(config: "ExtractConfig", quiet: _Quiet = False, as_json: _Json = False) -> int:
    """Extract the features of DATASETS. What is already there is skipped; a run that was cut off goes on.

    Progress goes to standard error, the table at the end to standard output. Ctrl-C stops after what
    is in hand, a second one at once.
    """
    from gpupeak.cli.display import Display, Output, print_report, print_warnings

    console = Output(stderr=True)
    display = Display(console, quiet=quiet)
    stop = threading.Event()
    error: BaseException | None = None
    with _interrupts(stop, display, last=own_process):
        # Standard output is for the result: whatever a library prints goes where the progress goes.
        with contextlib.redirect_stdout(sys.stderr):
            try:
                from gpupeak.run import extract as run

                config = _sharded(config, display.notice)
                with display:
                    report = run(config, display, stop)
            except (Exception, KeyboardInterrupt) as raised:
                error, report = raised, display.so_far()
        stop.set()  # there is nothing left to finish: from here on one signal is enough
        code, message = (report.exit_code, None) if error is None else _verdict(error)
        if as_json:
            _print_json({**report.to_json(), "exit_code": code, "interrupted": code == _INTERRUPTED, "error": message})
        if quiet:
            print_warnings(console, report, failures=True)
        elif report.datasets and not isinstance(error, UsageError):
            print_report(console if as_json else Output(), report)
        return code if error is None else _complain(error)


@_command()
def plan(config: "ExtractConfig", quiet: _Quiet = False, as_json: _Json = False) -> int:
    """Show what extract would do with the same arguments: samples, videos, peaks, finished work. Decodes nothing."""
    from gpupeak.check.survey import survey
    from gpupeak.cli.display import Output, clean, print_survey

    surveys = survey(_sharded(config, lambda text: Output(stderr=True).say(clean(text))))
    if as_json:
        _print_json({"exit_code": 0, "error": None, "datasets": [found.to_json() for found in surveys]})
    else:
        print_survey(Output(), surveys, table=not quiet)
    return 0


@_command(
    *("fallback", "peak_source", "seed", "weights", "device", "decoder", "batch_size", "workers", "time_limit"),
    *("num_shards", "shard_index", "engine", "address", "actors", "gpus_per_actor", "overwrite", "fsync"),
)
def merge(config: "ExtractConfig", quiet: _Quiet = False, as_json: _Json = False) -> int:
    """Make the records of shards one, when all of them have ended: one run.json and one manifest for each dataset.

    Takes the words that extract took. Features are not touched. Exit code 1 if samples failed or are missing.
    """
    from gpupeak.check.merge import merge as join
    from gpupeak.cli.display import Output, clean

    found = join(config, lambda text: Output(stderr=True).say(clean(text)))
    code = int(not all(each.complete for each in found))
    if as_json:
        _print_json({"exit_code": code, "error": None, "datasets": [each.to_json() for each in found]})
    elif not quiet:
        for each in found:
            counts = f"{each.saved} saved, {each.failed} failed, {each.missing} missing"
            Output().out(clean(f"{each.dataset}: {each.parts} shards merged: {counts}"))
    return code


@_command("overwrite", "num_shards", "shard_index")
def verify(
    config: "ExtractConfig",
    deep: Annotated[
        int,
        _option(_CHECKS, "Extract K samples of each dataset again, drawn by the seed, and compare.", metavar="K"),
    ] = 0,
    against: Annotated[
        str | None, _option(_CHECKS, "Compare with the features in another output root.", metavar="DIR")
    ] = None,
    min_cosine: Annotated[
        float | None,
        _option(
            _CHECKS,
            "With --against, the least cosine of a frame, less the dataset's mean.",
            metavar="COSINE",
            default=0.9995,
        ),
    ] = None,
    fix: Annotated[
        bool, _option(_CHECKS, "Extract what is missing or broken, and nothing else; then look again.", "--fix")
    ] = False,
    quiet: _Quiet = False,
    as_json: _Json = False,
) -> int:
    """Check the features that extract makes with the same arguments: all there, whole, of one kind. Writes nothing.

    Exit code 1 if anything is missing or wrong; warnings alone are 0.
    """
    from gpupeak.check.verify import MIN_COSINE, repair
    from gpupeak.check.verify import verify as look
    from gpupeak.cli.display import Display, Output, clean, print_report, print_verifications

    console = Output(stderr=True)

    def tell(text: str) -> None:
        console.say(clean(text))

    least = MIN_COSINE if min_cosine is None else min_cosine
    report = None
    with contextlib.redirect_stdout(sys.stderr):
        other = _place(against)
        found = look(config, deep=deep, against=other, min_cosine=least, tell=tell)
        if fix and any(each.mendable for each in found):
            display, stop = Display(console, quiet=quiet), threading.Event()
            with _interrupts(stop, display), display:
                report = repair(config, found, display, stop)
            if not quiet:
                print_report(console, report)
            deep, other = (0, None) if report.interrupted else (deep, other)
            found = look(config, deep=deep, against=other, min_cosine=least, tell=tell)
    code = _INTERRUPTED if report is not None and report.interrupted else int(not all(each.ok for each in found))
    if as_json:
        fixed = None if report is None else report.to_json()
        datasets = [each.to_json() for each in found]
        _print_json({"exit_code": code, "error": None, "fixed": fixed, "datasets": datasets})
    else:
        print_verifications(Output(), found, table=not quiet)
    return code


@_command("overwrite", "num_shards", "shard_index")
def report(
    config: "ExtractConfig",
    out: Annotated[
        Path, _option(_OUTPUT, "The file to write.", metavar="FILE.html", default="gpupeak-report.html")
    ] = Path("gpupeak-report.html"),
    show: Annotated[
        int, _option(_PICTURES, "Contact sheets a dataset, of samples drawn by --seed.", metavar="N", default=8, min=0)
    ] = 8,
    show_unusual: Annotated[
        int, _option(_PICTURES, "And of those whose features stand out most.", metavar="N", default=4, min=0)
    ] = 4,
    show_samples: Annotated[
        list[str] | None, _option(_PICTURES, "And of these: NAME or DATASET/NAME.", metavar="NAMES")
    ] = None,
    quiet: _Quiet = False,
    as_json: _Json = False,
) -> int:
    """Write one HTML file about the features that extract made with the same arguments; it opens offline.

    Coverage, peaks, fallbacks, failures, time, and the chosen frames of some samples as pictures. Datasets
    whose videos or lists are not at hand are told from what was extracted. Needs the extra report.
    """
    from gpupeak.cli.display import Output, clean, print_overview
    from gpupeak.report.contents import overview
    from gpupeak.report.page import REQUIRED, refuse_unwritable, write_page
    from gpupeak.report.sheets import require

    require(*REQUIRED)
    refuse_unwritable(out)
    console = Output(stderr=True)

    def tell(text: str) -> None:
        console.say(clean(text), "yellow")

    found = overview(config, show, show_unusual, show_samples or (), tell)
    size = write_page(found, out)
    if as_json:
        datasets = [each.to_json() for each in found]
        _print_json({"exit_code": 0, "error": None, "file": str(out), "bytes": size, "datasets": datasets})
    else:
        print_overview(Output(), found, None if quiet else f"{out}: {size / 1e6:.1f} MB")
    return 0


@_command("datasets", "num_shards", "shard_index", "engine", "address", "actors", "gpus_per_actor", "overwrite")
def inspect(
    config: "ExtractConfig",
    target: Annotated[
        str, typer.Argument(help="A video, or a sample: NAME or DATASET/NAME.", metavar="VIDEO_OR_SAMPLE")
    ],
    show: Annotated[
        str | None,
        _option(
            _PICTURES,
            "Decode these frames, too, and draw them under the curve of the action units: into a .png file, "
            "or without one on the terminal.",
            metavar="FILE.png",
        ),
    ] = None,
    as_json: _Json = False,
) -> int:
    """Show which frames of one video would be taken, and why; what decoding them needs; what was extracted.

    Decodes nothing but what --show asks for.
    """
    from gpupeak.check.survey import examine
    from gpupeak.cli.display import Output, print_examination

    if show == "-" and not sys.stdout.isatty():
        raise ConfigError("--show without a file draws on a terminal, and standard output is none; name a FILE.png")
    try:
        found = examine(config, target)
        picture = None if show is None else _drawn(found, show, config.time_limit)
    except SampleError as error:
        raise SampleError(error.stage, f"{target}: {error.reason}") from error
    if as_json:
        _print_json({"exit_code": 0, "error": None, **found.to_json()})
    else:
        print_examination(Output(), found)
    if picture is not None:
        sys.stdout.write(picture)
    return 0


def _drawn(found: "Examination", show: str, time_limit: float) -> str | None:
    """The contact sheet for the terminal, or None if it was written into a file."""
    from gpupeak.cli.display import Output
    from gpupeak.report.sheets import SheetTask, read_sheets, require, to_png, to_terminal
    from gpupeak.storage.atomic import replace_file
    from gpupeak.types import Failed

    require("PIL")
    plan = found.plan
    told = (plan.peak and f"peak by {plan.peak.source}", plan.fallback and plan.fallback.reason, plan.clamp)
    peak = None if plan.peak is None else plan.peak.index
    task = SheetTask(found.sample, plan.indices, peak, remarks=tuple(text for text in told if text))
    ((_, sheet),) = read_sheets([task], time_limit=time_limit)
    if isinstance(sheet, Failed):
        raise SampleError(sheet.stage, sheet.reason)
    if show == "-":
        return to_terminal(sheet, Output().width)
    try:
        replace_file(Path(show), [to_png(sheet)])
    except OSError as error:
        raise WriteError(f"{show}: cannot be written: {error.strerror or error}") from error
    return None


@_command(
    "split",
    "samples",
    "limit",
    "fallback",
    "peak_source",
    "seed",
    "batch_size",
    "workers",
    "time_limit",
    "num_shards",
    "shard_index",
    "engine",
    "address",
    "actors",
    "gpus_per_actor",
    "overwrite",
    "fsync",
)
def doctor(config: "ExtractConfig", as_json: _Json = False) -> int:
    """Show what this machine has for extract with the same arguments, and what to install. Changes nothing.

    Exit code 1 if the job could not run.
    """
    from gpupeak.check.doctor import MISSING, diagnose
    from gpupeak.cli.display import Output, print_findings

    findings = diagnose(config)
    code = int(any(finding.state == MISSING for finding in findings))
    if as_json:
        _print_json({"exit_code": code, "error": None, "findings": [finding.to_json() for finding in findings]})
    else:
        print_findings(Output(), findings)
    return code


consumer = typer.Typer(help="AffectGPT's configuration: check that it loads these features, or print what to paste.")
app.add_typer(consumer, name="config")


@consumer.command(
    "check",
    epilog="Exit codes: 0 inference with it loads the features of every dataset asked for, 1 it does not, "
    "2 no such file, or none of AffectGPT's.",
)
def config_check(
    file: Annotated[Path, typer.Argument(help="The configuration: evaluation's or training's.", metavar="FILE")],
    datasets: Annotated[
        list[str] | None,
        _option(
            _SOURCE,
            "Datasets, or AffectGPT's names for them: one or several.",
            "--dataset",
            "--datasets",
            metavar="NAMES",
            default="those that have a directory under the root",
        ),
    ] = None,
    options: Annotated[
        list[str] | None, _option(_SOURCE, "As AffectGPT's --options.", "--options", metavar="KEY=VALUE")
    ] = None,
    face_or_frame: Annotated[
        str | None, _option(_SOURCE, "As AffectGPT's --outside_face_or_frame.", metavar="VALUE")
    ] = None,
    run_dir: Annotated[
        Path, _option(_SOURCE, "Where AffectGPT runs.", metavar="DIR", default="the current directory")
    ] = Path(),
    as_json: _Json = False,
) -> int:
    """Show what AffectGPT reads of its configuration, and whether it would load the features that are there."""
    from gpupeak.check.affectgpt import check
    from gpupeak.cli.display import Output, print_check

    with _errors_in_json(as_json):
        names = _dataset_names(datasets or ())
        found = check(file, names, options=options or (), face_or_frame=face_or_frame, run_dir=run_dir)
    if as_json:
        _print_json({"exit_code": found.exit_code, "error": None, **found.to_json()})
    else:
        print_check(Output(), found)
    return found.exit_code


@consumer.command("emit")
def config_emit(
    datasets: Annotated[
        list[str] | None, typer.Argument(help="Names, apart or joined by commas.", metavar="DATASETS")
    ] = None,
    output_root: Annotated[
        str, _option(_OUTPUT, "Where the features are.", metavar="DIR", default="./preextracted_features")
    ] = "./preextracted_features",
    n_frms: Annotated[int, _option(_SAMPLING, "As in extract.", metavar="N", default=8, min=1)] = 8,
    visual_encoder: Annotated[
        str, _option(_ENCODER, "As in extract.", metavar="NAME", default="CLIP_VIT_LARGE")
    ] = "CLIP_VIT_LARGE",
    training: Annotated[bool, _option(_OUTPUT, "Sections for training, too.", "--training")] = False,
) -> int:
    """Print the lines that make AffectGPT load these features, to be put into its configuration."""
    from gpupeak.check.affectgpt import emit
    from gpupeak.cli.display import Output

    names = _dataset_names(datasets or ())
    text = emit(names, output_root=output_root, n_frms=n_frms, encoder=visual_encoder, training=training)
    Output().out(text, end="")
    return 0


_NOT_FOR_PACKING = tuple(
    name
    for name in signature(_settings).parameters
    if name not in ("datasets", "more_datasets", "output_root", "visual_encoder", "stream", "sampling", "n_frms")
)


@_command(*_NOT_FOR_PACKING)
def pack(config: "ExtractConfig", as_json: _Json = False) -> int:
    """Pack each dataset's .npy files into one file beside them, for training loops: gpupeak.FeatureStore maps it.

    DATASETS are directories of the output root; none for all that are there. The .npy files stay.
    """
    from gpupeak.features.packs import pack as pack_features

    def work(directory: Path, n: int) -> tuple[str, int]:
        file, count = pack_features(directory, n)
        return f"{count} samples packed into {file}", count

    return _pack_or_unpack(config, as_json, work)


@_command(*_NOT_FOR_PACKING)
def unpack(config: "ExtractConfig", as_json: _Json = False) -> int:
    """Write what pack packed as .npy files again, those that are not there.

    DATASETS are directories of the output root; none for all that are there.
    """
    from gpupeak.features.packs import unpack as unpack_features

    def work(directory: Path, n: int) -> tuple[str, int]:
        written, count = unpack_features(directory, n)
        return f"{written} of {count} samples written to {directory}", written

    return _pack_or_unpack(config, as_json, work)


def _pack_or_unpack(config: "ExtractConfig", as_json: bool, work: Callable[[Path, int], tuple[str, int]]) -> int:
    from gpupeak.cli.display import Output, clean
    from gpupeak.features.packs import FeatureStore

    n = config.n_frms or 8
    store = FeatureStore(config.output_root, config.encoder, config.sampling or "emotion_peak", n, config.stream)
    counts: dict[str, int] = {}
    names = config.datasets or tuple(store)
    if not names:
        raise ConfigError(f"{store.root}: no dataset with features at {store.directory('*').relative_to(store.root)}")
    for name in names:
        told, counts[name] = work(store.directory(name), n)
        if not as_json:
            Output().say(clean(f"{name}: {told}"))
    if as_json:
        _print_json({"exit_code": 0, "error": None, "datasets": counts})
    return 0


@app.command(epilog=_EPILOG)
def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.", metavar="DIR")] = Path("demo"),
    device: Annotated[str, typer.Option(help="Where the encoder runs.", metavar="auto|cpu|cuda:N")] = "auto",
    weights: Annotated[str, typer.Option(help="As in extract.", metavar="WEIGHTS")] = "random:0",
) -> int:
    """Draw a small corpus, extract its features and show what came out. Needs no data and no network."""
    from gpupeak.cli.display import Output
    from gpupeak.demo.show import run_demo

    return run_demo(out, Output(), main, device, weights)


@contextlib.contextmanager
def _interrupts(stop: threading.Event, display: "Display", *, last: bool = False) -> Iterator[None]:
    """Ctrl-C or SIGTERM sets `stop`, once the run has begun; a second one ends the process there and then.

    If this is the `last` thing that the process does, none changes afterwards how it ends.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            display.leave()
            os._exit(_INTERRUPTED)  # the writer renames whole files only, and the workers end with this process
        if not display.tallies:
            raise KeyboardInterrupt
        stop.set()
        display.stopping()

    # A signal that is ignored (SIGINT of a job that a script has put in the background) stays ignored.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last else handler)


def _verdict(error: BaseException) -> tuple[int, str]:
    """The exit code that an error ends a command with, and the one line that it is told in."""
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED, "interrupted before anything was extracted"
    if isinstance(error, SampleError):
        return 1, f"{error.stage}: {error.reason}"
    if isinstance(error, GpupeakError):
        return error.exit_code, str(error)
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        return error.exit_code, f"{error.format_message()}{hint}"
    if isinstance(error, MemoryError):
        return 3, "out of memory"
    if isinstance(error, ImportError):
        return 3, f"a package cannot be loaded: {error} (gpupeak doctor says what to install)"
    return 3, (
        f"unexpected {type(error).__name__}: {error} "
        "(please report it; with GPUPEAK_TRACEBACK=1 in the environment it shows where it arose)"
    )


def _complain(error: BaseException) -> int:
    """Print an error as one line on standard error and return the exit code."""
    from gpupeak.cli.display import Output, clean

    code, message = _verdict(error)
    with contextlib.suppress(OSError):  # standard error may be a file on a full disk
        if os.environ.get("GPUPEAK_TRACEBACK"):
            traceback.print_exception(error)
        line = " ".join(part.strip() for part in message.splitlines())
        Output(stderr=True).say(f"error: {clean(line)}", "red")
    return code


@contextlib.contextmanager
def _errors_in_json(wanted: bool) -> Iterator[None]:
    """With `--json`, standard output says in JSON, too, what a command ends with."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if wanted:
            code, message = _verdict(error)
            _print_json({"exit_code": code, "error": message})
        raise


def _print_json(value: dict[str, Any]) -> None:
    from gpupeak.cli.display import Output

    Output().out(json.dumps(value))
