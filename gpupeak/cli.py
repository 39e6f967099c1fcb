"""The command line: options become an `ExtractConfig`, and what it leads to an exit code.

Nothing heavy is imported before a command needs it: `--help` answers without numpy, torch or av.
"""

# No postponed evaluation of annotations here: they are what typer makes the options from.

import contextlib
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
from gpupeak.errors import ConfigError, GpupeakError, SampleError, UsageError

if TYPE_CHECKING:
    from gpupeak.config import ExtractConfig
    from gpupeak.display import Display

__all__ = ["main"]

_INTERRUPTED = 130
_EPILOG = (
    "Exit codes: 0 all saved or skipped, 1 some samples failed, 2 wrong use or configuration, "
    "3 the run could not go on, 130 interrupted. "
    "With GPUPEAK_TRACEBACK=1 in the environment an error shows where it arose."
)
_SOURCE, _SAMPLING, _ENCODER, _RUN, _OUTPUT = "Source", "Sampling", "Encoder", "Run", "Output"

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
    except Exception as error:
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
    """Let `--datasets` take every word up to the next option, as AffectGPT's guide writes it (`extract`, `plan`)."""
    if argv[:1] not in (["extract"], ["plan"]):
        return list(argv)
    spread: list[str] = []
    words: int | None = None  # that --datasets has been given; None elsewhere
    for place, word in enumerate(argv):
        if word == "--":
            return [*spread, *argv[place:]]
        if word.startswith("-"):
            words = 0 if word == "--datasets" else None
        elif words is not None:
            if words:
                spread.append("--datasets")
            words += 1
        spread.append(word)
    return spread


def _dataset_names(words: Iterable[str]) -> tuple[str, ...]:
    names = []
    for word in words:
        some = [name.strip() for name in word.split(",") if name.strip()]
        if not some:  # an unset shell variable must not mean all of them
            raise ConfigError(f"dataset is {word!r}, expected a name; without any, all nine are meant")
        names += some
    return tuple(dict.fromkeys(names))


def _option(panel: str, help: str, *names: str, metavar: str = "", default: object = None) -> Any:
    """An option of a help panel; `default` is what the help says of it, a flag needs no `metavar`."""
    told = help.replace("[", "\\[") + ("" if default is None else f" [dim]\\[default: {default}][/]")
    return typer.Option(*names, help=told, show_default=False, rich_help_panel=panel, metavar=metavar)


def _settings(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(help="Names, apart or joined by commas; none for the nine of MER-UniBench.", metavar="DATASETS"),
    ] = None,
    more_datasets: Annotated[
        list[str] | None, _option(_SOURCE, "Datasets: one name or several.", "--datasets", metavar="NAMES")
    ] = None,
    dataset_root: Annotated[
        Path | None, _option(_SOURCE, "Holds the datasets.", metavar="DIR", default="the current directory")
    ] = None,
    mer_factory_output: Annotated[
        Path | None, _option(_SOURCE, "Holds the datasets' action-unit files.", metavar="DIR")
    ] = None,
    split: Annotated[str, _option(_SOURCE, "test, train or all.", metavar="SPLIT", default="test")] = "test",
    samples: Annotated[
        Path | None, _option(_SOURCE, "Take only the samples of this list: .txt, .csv, .json, .npz.", metavar="FILE")
    ] = None,
    limit: Annotated[int | None, _option(_SOURCE, "At most so many samples a dataset.", metavar="N")] = None,
    videos: Annotated[
        Path | None, _option(_SOURCE, "A corpus of your own: a directory of videos, or one video.", metavar="PATH")
    ] = None,
    name: Annotated[str | None, _option(_SOURCE, "What that corpus is called.", metavar="NAME")] = None,
    aus: Annotated[Path | None, _option(_SOURCE, "Holds that corpus's action-unit files.", metavar="DIR")] = None,
    config_file: Annotated[
        Path | None, _option(_SOURCE, "Datasets and settings of your own: .toml, .yaml.", "--config", metavar="FILE")
    ] = None,
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
    seed: Annotated[int, _option(_SAMPLING, "What headtail draws from.", metavar="N", default=0)] = 0,
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
    device: Annotated[str, _option(_RUN, "auto, cpu or cuda:N.", metavar="DEVICE", default="auto")] = "auto",
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
    output_root: Annotated[
        Path, _option(_OUTPUT, "Where the features go.", metavar="DIR", default="preextracted_features")
    ] = Path("preextracted_features"),
    overwrite: Annotated[bool, _option(_OUTPUT, "Extract what is already there, too.", "--overwrite")] = False,
    fsync: Annotated[
        bool, _option(_OUTPUT, "A file counts as saved when it is safe from power loss.", "--fsync")
    ] = False,
) -> "ExtractConfig":
    """Every option that is a setting of a run, declared once for all commands."""
    from gpupeak.config import ExtractConfig

    return ExtractConfig(
        datasets=_dataset_names([*(datasets or ()), *(more_datasets or ())]),
        dataset_root=dataset_root,
        mer_factory_output=mer_factory_output,
        output_root=output_root,
        videos=videos,
        name=name,
        aus=aus,
        samples=samples,
        encoder=visual_encoder,
        weights=weights,
        n_frms=n_frms,
        sampling=sampling,
        fallback=fallback,
        peak_source=peak_source,
        seed=seed,
        device=device,
        decoder=decoder,
        batch_size=batch_size,
        workers=workers,
        time_limit=time_limit,
        overwrite=overwrite,
        limit=limit,
        split=split,
        fsync=fsync,
        config_file=config_file,
    )


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
            try:
                return command(_settings(**given), **extra)
            except Exception as error:
                if extra["as_json"]:
                    code, message = _verdict(error)
                    _print_json({"exit_code": code, "error": message})
                raise

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
    from gpupeak.display import Display, Output, print_report, print_warnings

    console = Output(stderr=True)
    display = Display(console, quiet=quiet)
    stop = threading.Event()
    error: BaseException | None = None
    # Standard output is for the result: whatever a library prints goes where the progress goes.
    with contextlib.redirect_stdout(sys.stderr), _interrupts(stop, display):
        try:
            from gpupeak.run import extract as run

            with display:
                report = run(config, display, stop)
        except (Exception, KeyboardInterrupt) as raised:
            error, report = raised, display.so_far()
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
    from gpupeak.display import Output, print_survey
    from gpupeak.survey import survey

    surveys = survey(config)
    if as_json:
        _print_json({"exit_code": 0, "error": None, "datasets": [found.to_json() for found in surveys]})
    else:
        print_survey(Output(), surveys, table=not quiet)
    return 0


@_command(
    "datasets",
    "limit",
    "visual_encoder",
    "weights",
    "device",
    "decoder",
    "batch_size",
    "workers",
    "time_limit",
    "output_root",
    "overwrite",
    "fsync",
)
def inspect(
    config: "ExtractConfig",
    target: Annotated[
        str, typer.Argument(help="A video, or a sample: NAME or DATASET/NAME.", metavar="VIDEO_OR_SAMPLE")
    ],
    as_json: _Json = False,
) -> int:
    """Show which frames of one video would be taken, and why; and what decoding them needs. Decodes nothing."""
    from gpupeak.display import Output, print_examination
    from gpupeak.survey import examine

    try:
        found = examine(config, target)
    except SampleError as error:
        raise SampleError(error.stage, f"{target}: {error.reason}") from error
    if as_json:
        _print_json({"exit_code": 0, "error": None, **found.to_json()})
    else:
        print_examination(Output(), found)
    return 0


@app.command(epilog=_EPILOG)
def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.", metavar="DIR")] = Path("demo"),
    device: Annotated[str, typer.Option(help="Where the encoder runs.", metavar="auto|cpu|cuda:N")] = "auto",
    weights: Annotated[str, typer.Option(help="As in extract.", metavar="WEIGHTS")] = "random:0",
) -> int:
    """Draw a small corpus, extract its features and show what came out. Needs no data and no network."""
    from gpupeak.demo import run_demo
    from gpupeak.display import Output

    return run_demo(out, Output(), device, weights)


@contextlib.contextmanager
def _interrupts(stop: threading.Event, display: "Display") -> Iterator[None]:
    """Ctrl-C or SIGTERM sets `stop`, once the run has begun; a second one ends the process there and then."""

    def handle(number: int, frame: FrameType | None) -> None:
        if not display.tallies:
            raise KeyboardInterrupt
        if stop.is_set():
            display.leave()
            os._exit(_INTERRUPTED)  # the writer renames whole files only, and the workers end with this process
        stop.set()
        display.stopping()

    # A signal that is ignored (SIGINT of a job that a script has put in the background) stays ignored.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    return 3, (
        f"unexpected {type(error).__name__}: {error} "
        "(please report it; with GPUPEAK_TRACEBACK=1 in the environment it shows where it arose)"
    )


def _complain(error: BaseException) -> int:
    """Print an error as one line on standard error and return the exit code."""
    from gpupeak.display import Output, clean

    code, message = _verdict(error)
    with contextlib.suppress(OSError):  # standard error may be a file on a full disk
        if os.environ.get("GPUPEAK_TRACEBACK"):
            traceback.print_exception(error)
        line = " ".join(part.strip() for part in message.splitlines())
        Output(stderr=True).say(f"error: {clean(line)}", "red")
    return code


def _print_json(value: dict[str, Any]) -> None:
    from gpupeak.display import Output

    Output().out(json.dumps(value))
