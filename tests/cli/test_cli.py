"""The command line: words to settings, outcomes to exit codes, one line for every error, Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from clips import write_clip
from samples import plan, sample

import gpupeak
import gpupeak.demo.show
import gpupeak.run
from gpupeak import ExtractConfig
from gpupeak.cli.app import main
from gpupeak.cli.display import Output
from gpupeak.errors import DeviceError, LabelError, WriteError
from gpupeak.tally import Observer, RunReport, Tally
from gpupeak.types import Failed, Saved

Run: TypeAlias = Callable[[ExtractConfig, Observer, threading.Event], RunReport]

ALL_OPTIONS = [
    *["--dataset-root", "root", "--mer-factory-output", "aus", "--output-root", "out", "--samples", "list.txt"],
    *["--visual-encoder", "open_clip:ViT-B-32", "--weights", "random:7", "--n-frms", "4"],
    *["--fallback", "middle", "--peak-source", "openface", "--seed", "3", "--device", "cuda:1", "--batch-size", "2"],
    *[
        "--decoder",
        "cpu",
        "--workers",
        "5",
        "--time-limit",
        "1.5",
        "--overwrite",
        "--limit",
        "6",
        "--split",
        "all",
        "--fsync",
    ],
    *["--config", "own.toml", "--stream", "face", "--sampling", "uniform"],
    *["--cache", "kept", "--cache-size", "1.5GB"],
    *["--num-shards", "8", "--shard-index", "3"],
]
ALL_SETTINGS = ExtractConfig(
    dataset_root=Path("root"),
    mer_factory_output=Path("aus"),
    output_root=Path("out"),
    samples=Path("list.txt"),
    encoder="open_clip:ViT-B-32",
    weights="random:7",
    n_frms=4,
    stream="face",
    sampling="uniform",
    fallback="middle",
    peak_source="openface",
    seed=3,
    device="cuda:1",
    decoder="cpu",
    batch_size=2,
    workers=5,
    time_limit=1.5,
    overwrite=True,
    limit=6,
    split="all",
    fsync=True,
    config_file=Path("own.toml"),
    cache=Path("kept"),
    cache_size=1_500_000_000,
    num_shards=8,
    shard_index=3,
)


OF_RAY: dict[str, Any] = {"engine": "ray", "address": "head:6379", "actors": "2:8", "gpus_per_actor": 0.5}
"""Which do not go with shards."""


def report(*tallies: Tally, interrupted: bool = False) -> RunReport:
    return RunReport(tallies, 1.0, "cpu", interrupted, ())


class Stage:
    """Stands in for the run: keeps the settings it is called with and does what the test says."""

    def __init__(self) -> None:
        self.configs: list[ExtractConfig] = []
        self.act: Run = lambda config, observer, stop: report()

    def __call__(self, config: ExtractConfig, observer: Observer, stop: threading.Event) -> RunReport:
        self.configs.append(config)
        return self.act(config, observer, stop)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(gpupeak.run, "extract", stage)
    monkeypatch.delenv("GPUPEAK_TRACEBACK", raising=False)
    return stage


def half_done(directory: Path) -> Run:
    """A run that saves one sample of three, fails another and prints something of its own."""

    def act(config: ExtractConfig, observer: Observer, stop: threading.Event) -> RunReport:
        tally = Tally("mine", directory, listed=3)
        observer.started((tally,))
        print("a library prints")
        for outcome in (Saved(plan(directory), {}), Failed(sample(directory, "bad"), "decode", "no moov atom")):
            tally.add(outcome)
            observer.advanced(tally, outcome)
        return report(tally)

    return act


# Words to settings


def test_no_options_are_the_defaults_of_the_library(stage: Stage) -> None:
    assert main(["extract"]) == 0
    assert stage.configs == [ExtractConfig()]


def test_every_option_reaches_its_setting(stage: Stage) -> None:
    own = ["--videos", "clips", "--name", "mine", "--aus", "aus"]
    assert main(["extract", *ALL_OPTIONS, *own]) == 0
    settings = dataclasses.replace(ALL_SETTINGS, videos=Path("clips"), name="mine", aus=Path("aus"))
    assert stage.configs == [settings]
    untouched = {f.name for f in dataclasses.fields(settings) if getattr(settings, f.name) == f.default}
    assert untouched == {"datasets", *OF_RAY}, "a setting without an option"


def test_the_options_of_a_ray_job_reach_their_settings(stage: Stage) -> None:
    words = "--engine ray --address head:6379 --actors 2:8 --gpus-per-actor 0.5"
    assert main(["extract", *words.split()]) == 0
    assert stage.configs == [ExtractConfig(**OF_RAY)]


@pytest.mark.parametrize(
    "words",
    [
        "meld mer2023 --seed 1",
        "meld,mer2023 --seed 1",
        "--seed 1 meld, mer2023",
        "--datasets meld mer2023 --seed 1",
        "--seed 1 --datasets meld mer2023",
        "--datasets meld,mer2023 --seed 1",
        "--datasets=meld,mer2023 --seed 1",
        "--datasets meld --seed 1 --datasets mer2023",
        "--seed 1 --datasets meld mer2023 meld",
        "--seed 1 -- meld mer2023",
    ],
)
def test_datasets_can_be_spelt_in_many_ways(words: str, stage: Stage) -> None:
    assert main(["extract", *words.split()]) == 0
    assert stage.configs == [ExtractConfig(datasets=("meld", "mer2023"), seed=1)]


@pytest.mark.parametrize("words", [[""], ["--datasets", ""], ["mer2023", ","], ["--datasets"]])
def test_an_empty_dataset_name_does_not_mean_all_of_them(
    words: list[str], stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["extract", *words]) == 2
    assert stage.configs == []
    assert one_error(capsys)


# Help


def test_help_groups_every_option_and_documents_the_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["extract", "--help"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"╭─ (\w+) ", text) == [
        *["Arguments", "Options", "Source", "Sampling", "Encoder", "Run", "Output"]
    ]
    for option in [word for word in ALL_OPTIONS if word.startswith("--")]:
        assert option in text
    for code in (
        "0 all saved or skipped",
        "1 some samples failed",
        "2 wrong use",
        "3 the run could",
        "130 interrupted",
    ):
        assert code in " ".join(text.split())
    assert "[default: CLIP_VIT_LARGE]" in text
    assert "MODEL[/TAG]" in text


def test_plan_takes_the_same_options_as_extract(capsys: pytest.CaptureFixture[str]) -> None:
    def options(command: str) -> set[str]:
        assert main([command, "--help"]) == 0
        return set(re.findall(r"--[a-z-]+", capsys.readouterr().out))

    assert options("plan") == options("extract")
    assert options("inspect") - {"--show"} < options("extract")
    assert options("report") > options("extract") - {"--overwrite", "--num-shards", "--shard-index"}


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_gpupeak_alone_prints_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    for command in ("extract", "plan", "inspect", "demo"):
        assert re.search(rf"^│ {command} ", text, re.MULTILINE)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gpupeak {gpupeak.__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gpupeak.cli.app import main; "
        "codes = [main(words.split()) for words in ('--version', '--help', 'extract --help', 'inspect --help')]; "
        "heavy = {'torch', 'av', 'numpy', 'open_clip'} & set(sys.modules); sys.exit(' '.join(heavy) or any(codes))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_can_be_run() -> None:
    done = subprocess.run([sys.executable, "-m", "gpupeak", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"gpupeak {gpupeak.__version__}\n")


# Errors


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that was printed, to standard error."""
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.index("\n") == len(error) - 1
    return error[len("error: ") : -1]


AS_A_PROCESS = """
import atexit, os, signal, sys
from gpupeak import __main__ as process

def cut(name):
    if name == "gpupeak.cli.app":
        os.kill(os.getpid(), signal.SIGINT)

def cut_both(*arguments, **options):
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)

when = sys.argv.pop(1)
if when == "loading":
    sys.addaudithook(lambda event, arguments: event == "import" and cut(arguments[0]))
elif when == "ended":  # among the last things that the process does
    atexit.register(cut_both)
else:
    from gpupeak import run
    from gpupeak.cli import app as cli
    from gpupeak import tally as report
    run.extract = lambda config, observer, stop: report.RunReport((), 1.0, "cpu", False, ())
    command = cli.app
    if when == "returned":  # from the command, on the way to the exit code
        cli.app = lambda **options: (command(**options), cut_both())[0]
    else:
        cli.app = lambda **options: (os.kill(os.getpid(), signal.SIGINT), command(**options))[1]
sys.argv[0] = "gpupeak"
sys.exit(process.main())
"""


@pytest.mark.parametrize(("when", "code"), [("loading", -signal.SIGINT), ("ended", 0)])
def test_a_signal_while_it_loads_or_when_all_is_done_shows_no_traceback(when: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_A_PROCESS, when, "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert ("gpupeak" in done.stdout) == (when == "ended")


@pytest.mark.parametrize(
    ("when", "code", "told"),
    [("called", 130, "error: interrupted before anything was extracted\n"), ("returned", 0, "")],
)
def test_a_signal_beside_a_run_is_told_or_changes_nothing(when: str, code: int, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_A_PROCESS, when, "extract"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (code, told)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extrat"], "No such command 'extrat'. Did you mean 'extract'? (see gpupeak --help)"),
        (["extract", "--dataset-rot", "x"], "No such option: --dataset-rot (Possible options: --dataset-root"),
        (["extract", "--limit", "many"], "Invalid value for '--limit'"),
        (["extract", "--limit"], "Option '--limit' requires an argument"),
        (["extract", "--limit", "0"], "limit is 0, expected a whole number of at least 1"),
        (["extract", "--sampling", "even"], "sampling is 'even', expected one of emotion_peak, uniform, headtail"),
        (["extract", "--videos", "clips"], "a corpus of your own takes both --videos and --name"),
        (["inspect"], "Missing argument"),
        (["demo", "x"], "Got unexpected extra argument"),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str], message: str, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert one_error(capsys).startswith(message)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (LabelError("label.npz: no such file"), 2, "label.npz: no such file"),
        (DeviceError("no GPU"), 3, "no GPU"),
        (WriteError("x\x1b[2J\n[red]y"), 3, r"x\x1b[2J [red]y"),
        (
            RuntimeError("two\nlines"),
            3,
            "unexpected RuntimeError: two lines (please report it; with GPUPEAK_TRACEBACK=1",
        ),
        (MemoryError(), 3, "out of memory"),
        (
            ImportError("libtorch_cuda.so: failed to map segment from shared object"),
            3,
            "a package cannot be loaded: libtorch_cuda.so: failed to map segment from shared object",
        ),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: Exception, code: int, message: str, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(config: ExtractConfig, observer: Observer, stop: threading.Event) -> RunReport:
        raise error

    stage.act = act
    assert main(["extract"]) == code
    assert one_error(capsys).startswith(message)


def test_a_traceback_is_there_for_the_asking(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(config: ExtractConfig, observer: Observer, stop: threading.Event) -> RunReport:
        raise DeviceError("no GPU") from OSError("the driver is missing")

    stage.act = act
    monkeypatch.setenv("GPUPEAK_TRACEBACK", "1")
    assert main(["extract"]) == 3
    error = capsys.readouterr().err
    assert "OSError: the driver is missing" in error
    assert error.endswith("error: no GPU\n")


# What a run ends with


def test_the_table_goes_to_standard_output_and_all_else_to_standard_error(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.act = half_done(tmp_path)
    assert main(["extract"]) == 1
    out, error = capsys.readouterr()
    assert "mine failed: decode: no moov atom (1)" in out
    assert "prints" not in out
    assert error.splitlines() == [
        "mine: 3 listed, 0 already done",
        "a library prints",
        "failed: mine/bad: decode: no moov atom",
    ]


def test_json_is_one_object_and_nothing_else(stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage.act = half_done(tmp_path)
    assert main(["extract", "--json"]) == 1
    out, error = capsys.readouterr()
    assert out.count("\n") == 1
    summary = json.loads(out)
    assert (summary["exit_code"], summary["error"], summary["saved"], summary["failed"]) == (1, None, 1, 1)
    assert summary["datasets"][0]["failed_first"] == [{"sample": "bad", "stage": "decode", "reason": "no moov atom"}]
    assert "mine failed: decode: no moov atom (1)" in error


def test_quiet_tells_of_failures_and_warnings_in_a_line(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = half_done(tmp_path)

    def act(config: ExtractConfig, observer: Observer, stop: threading.Event) -> RunReport:
        done = half(config, observer, stop)
        done.datasets[0].warnings.append("mine: odd")
        observer.notice("on the CPU")
        return done

    stage.act = act
    assert main(["extract", "--quiet"]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.splitlines() == [
        "a library prints",
        "on the CPU",
        f"mine: 1 failed: decode: no moov atom (1); see {tmp_path}/manifest.jsonl",
        "warning: mine: odd",
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_that_cannot_go_on_still_tells_what_it_did(
    as_json: bool, stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = half_done(tmp_path)

    def act(config: ExtractConfig, observer: Observer, stop: threading.Event) -> RunReport:
        half(config, observer, stop)
        raise WriteError("out: no space left on the disk")

    stage.act = act
    assert main(["extract", *["--json"] * as_json]) == 3
    out, error = capsys.readouterr()
    assert error.endswith("error: out: no space left on the disk\n")
    if as_json:
        summary = json.loads(out)
        assert (summary["exit_code"], summary["error"]) == (3, "out: no space left on the disk")
        assert (summary["saved"], summary["failed"], summary["not_reached"]) == (1, 1, 1)
    else:
        assert re.search(r"^mine +1 +0 +0 +0 +1 +1 ", out, re.MULTILINE)


@pytest.mark.parametrize("command", ["extract", "plan", "inspect"])
def test_with_json_an_error_is_json_too(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["mer2023/x"] if command == "inspect" else ["mer2023"]
    assert main([command, *words, "--json"]) == 2
    out, error = capsys.readouterr()
    summary = json.loads(out)
    assert summary["exit_code"] == 2
    assert error == f"error: {summary['error']}\n"
    assert main([command, *words, "--json", "--limit" if command != "inspect" else "--n-frms", "0"]) == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2


@pytest.mark.parametrize(
    "words",
    [
        "extract --limit many",
        "plan --nosuch",
        "inspect",
        "report --show -1",
        "config check",
        "verify --deep",
        "pack a --x",
    ],
)
def test_with_json_wrong_words_are_json_too(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words.split(), "--json"]) == 2
    out, error = capsys.readouterr()
    assert json.loads(out) == {"exit_code": 2, "error": error.removeprefix("error: ").rstrip("\n")}


@pytest.mark.parametrize("command", ["plan", "verify", "pack", "doctor"])
def test_a_home_of_nobody_is_a_name_like_any_other(
    command: str, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = (
        []
        if command == "pack"
        else ["--videos", str(videos), "--name", "x", "--sampling", "uniform", "--weights", "random:0"]
    )
    assert main([command, *own, "--output-root", "~nobody-of-this-name/x", "--json"]) in (0, 1, 2)
    assert "unexpected" not in capsys.readouterr().err


def test_the_demo_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def run_demo(out: Path, console: Output, command: object, device: str, weights: str) -> int:
        assert command is main
        calls.append((out, device, weights))
        return 1

    monkeypatch.setattr(gpupeak.demo.show, "run_demo", run_demo)
    assert main(["demo"]) == 1
    assert main(["demo", "--out", "x", "--device", "cpu", "--weights", "openai"]) == 1
    assert calls == [(Path("demo"), "auto", "random:0"), (Path("x"), "cpu", "openai")]


# The real thing, where it is cheap


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("视频 videos")
    write_clip(directory / "样本 1.mp4", frames=20)
    write_clip(directory / "-b.mp4", frames=30)
    (directory / "text.mp4").write_text("no video")
    return directory


def test_plan_of_a_corpus_of_ones_own(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--videos", str(videos), "--name", "mine", "--weights", "random:0"]
    assert main(words) == 2
    assert one_error(capsys).startswith("mine: emotion_peak needs action-unit files")
    assert main([*words, "--fallback", "uniform"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"^mine +3 +0 +0 +3 +74\.1 kB$", table, re.MULTILINE)
    assert "mine without a peak: no AU directory (3)" in table
    assert main([*words, "--sampling", "uniform", "--json"]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    (survey,) = json.loads(out)["datasets"]
    assert (survey["listed"], survey["done"], survey["bytes_to_write"]) == (3, 0, 3 * 24704)


def test_inspect_a_video_and_a_sample(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(videos / "样本 1.mp4")]) == 0
    text = capsys.readouterr().out
    assert f"video       {videos}/样本 1.mp4\n" in text
    assert "indices     0 2 5 8 10 13 16 19\n" in text
    own = ["--videos", str(videos), "--name", "mine", "--sampling", "uniform", "--json"]
    assert main(["inspect", *own, "--", "-b"]) == 0
    out, error = capsys.readouterr()
    assert (error, out.count("\n")) == ("", 1)
    found = json.loads(out)
    assert (found["sample"], found["frames"], found["exit_code"]) == ("mine/-b", 30, 0)


def test_inspect_takes_the_words_that_extract_took(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--output-root", "nowhere", "--visual-encoder", "open_clip:ViT-S-32-alt", "--weights", "random:0"]
    words += ["--device", "cpu", "--decoder", "cpu", "--batch-size", "1", "--workers", "1", "--limit", "1", "--fsync"]
    own = ["--videos", str(videos), "--name", "mine", "--sampling", "uniform"]
    assert main(["inspect", "样本 1", *own, *words]) == 0
    place = "nowhere/mine/frame_open_clip_ViT-S-32-alt_uniform_8frms/样本 1.npy"
    assert f"features    none: {place}\n" in capsys.readouterr().out
    assert main(["inspect", "x/y", "--datasets", "mer2023", "meld", "--dataset-root", str(videos)]) == 2
    assert "unknown dataset 'x'" in one_error(capsys)


def test_inspect_of_what_is_no_video(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(videos / "text.mp4")]) == 1
    assert "text.mp4" in one_error(capsys)
    own = ["--videos", str(videos), "--name", "mine"]
    assert main(["inspect", "nobody", *own]) == 2
    assert "'nobody'" in one_error(capsys)


# Readers that go away, Ctrl-C: in a process of its own, whose run is one of these

RUNS = """
import os, sys, threading
from pathlib import Path
import gpupeak.run
from gpupeak.tally import RunReport, Tally
from gpupeak.types import Failed, Sample, SamplingRule

def tell(word):
    os.write(int(os.environ["TOLD"]), word)

def wait(event):  # on another thread, as the line's own threads do
    waiting = threading.Thread(target=event.wait, daemon=True)
    waiting.start()
    waiting.join()

def begin(observer):
    tally = Tally("mine", Path("features"), listed=5)
    observer.started((tally,))
    outcome = Failed(Sample("mine", "bad", None, (), SamplingRule(), Path("x.npy")), "find", "no video")
    tally.add(outcome)
    observer.advanced(tally, outcome)
    return tally

def graceful(config, observer, stop):
    tally = begin(observer)
    tell(b"b")
    wait(stop)
    return RunReport((tally,), 1.0, "cpu", True, ())

def stubborn(config, observer, stop):
    begin(observer)
    tell(b"b")
    wait(stop)
    tell(b"s")
    wait(threading.Event())

def listing(config, observer, stop):
    tell(b"b")
    wait(threading.Event())

def done(config, observer, stop):
    return RunReport((begin(observer),), 1.0, "cpu", False, ())

gpupeak.run.extract = globals()[sys.argv.pop(1)]
if __name__ == "__main__":
    from gpupeak.cli.app import main
    sys.exit(main())
"""


class Process:
    """`gpupeak extract` in a process of its own; it tells where it is a letter at a time."""

    def __init__(self, directory: Path, run: str, *words: str, **streams: Any) -> None:
        script = directory / "runs.py"
        script.write_text(RUNS)
        self._told, theirs = os.pipe()
        environment = {**os.environ, "TOLD": str(theirs), "COLUMNS": "100", "LINES": "30", "TERM": "xterm-256color"}
        environment.pop("GPUPEAK_TRACEBACK", None)
        self.process = subprocess.Popen(
            [sys.executable, str(script), run, "extract", *words],
            env=environment,
            pass_fds=(theirs,),
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        )
        os.close(theirs)

    def interrupt_after(self, letter: str, number: int = signal.SIGINT) -> None:
        """Send a signal as soon as the run is where `letter` says."""
        assert os.read(self._told, 1).decode() == letter
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=60)
        os.close(self._told)
        return self.process.returncode, out, error


STOPPING = "stopping after what is in hand; press Ctrl-C again to stop at once"


@pytest.mark.parametrize(("number", "words"), [(signal.SIGINT, []), (signal.SIGTERM, ["--quiet"])])
def test_the_first_interrupt_finishes_what_is_in_hand(number: int, words: list[str], tmp_path: Path) -> None:
    process = Process(tmp_path, "graceful", *words)
    process.interrupt_after("b", number)
    code, out, error = process.end()
    assert code == 130
    assert STOPPING in error
    if words:
        assert out == ""
    else:
        assert re.search(r"^mine +0 +0 +0 +0 +1 +4 ", out, re.MULTILINE)
        assert "interrupted, 4 samples not reached: the same command goes on from here" in out


def test_an_interrupted_run_has_its_json(tmp_path: Path) -> None:
    process = Process(tmp_path, "graceful", "--json")
    process.interrupt_after("b")
    code, out, _ = process.end()
    summary = json.loads(out)
    assert (code, summary["exit_code"], summary["interrupted"], summary["error"]) == (130, 130, True, None)


def test_the_second_interrupt_ends_the_process(tmp_path: Path) -> None:
    process = Process(tmp_path, "stubborn")
    process.interrupt_after("b")
    process.interrupt_after("s")
    code, out, error = process.end()
    assert (code, out) == (130, "")
    assert error.endswith(f"{STOPPING}\n")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_an_interrupt_before_the_run_has_begun_ends_it(words: list[str], tmp_path: Path) -> None:
    process = Process(tmp_path, "listing", *words)
    process.interrupt_after("b")
    code, out, error = process.end()
    assert code == 130
    assert error == "error: interrupted before anything was extracted\n"
    if words:
        summary = json.loads(out)
        assert (summary["exit_code"], summary["interrupted"], summary["datasets"]) == (130, True, [])


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what a script runs in the background
    try:
        process = Process(tmp_path, "stubborn")
    finally:
        signal.signal(signal.SIGINT, ignored)
    process.interrupt_after("b", signal.SIGINT)
    process.process.send_signal(signal.SIGTERM)
    process.interrupt_after("s", signal.SIGTERM)
    code, _, error = process.end()
    assert code == 130
    assert error.count(STOPPING) == 1


def terminal(tmp_path: Path, run: str, letters: str) -> tuple[int, str, str]:
    """Run with standard error on a terminal; return the exit code, standard output and what the terminal got."""
    ours, theirs = pty.openpty()
    process = Process(tmp_path, run, stderr=theirs)
    os.close(theirs)
    got = b""

    def read() -> None:
        nonlocal got
        try:
            while chunk := os.read(ours, 65536):
                got += chunk
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    for letter in letters:
        process.interrupt_after(letter)
    code, out, _ = process.end()
    reader.join()
    os.close(ours)
    return code, out, got.decode()


def test_on_a_terminal_the_table_stands_after_the_display_is_gone(tmp_path: Path) -> None:
    code, out, got = terminal(tmp_path, "graceful", "b")
    assert code == 130
    assert re.search(r"^mine +0 +0 +0 +0 +1 +4 ", out, re.MULTILINE)
    assert STOPPING in got
    assert "1/5" in got
    assert got.rindex("\x1b[?25h") > got.rindex("\x1b[?25l"), "the cursor is back"


def test_on_a_terminal_the_second_interrupt_gives_the_cursor_back(tmp_path: Path) -> None:
    code, out, got = terminal(tmp_path, "stubborn", "bs")
    assert (code, out) == (130, "")
    assert got.rindex("\x1b[?25h") > got.rindex("\x1b[?25l")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away_changes_nothing_about_the_run(stream: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = Process(tmp_path, "done", **{stream: writer})
    os.close(writer)
    code, out, error = process.end()
    assert code == 1
    assert "Traceback" not in (error or "")
    assert "BrokenPipe" not in (error or "")
    assert stream == "stdout" or "mine failed: find: no video (1)" in out


def test_a_name_that_the_locale_cannot_spell_does_not_end_the_command(videos: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpupeak", "inspect", str(videos / "样本 1.mp4")],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert r"\u6837\u672c 1.mp4" in done.stdout
