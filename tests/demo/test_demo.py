"""The demo around the run: what it may remove, what it shows, and that it notices a wrong peak."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from samples import write_features

from gpupeak.demo import corpus as drawing
from gpupeak.demo.corpus import CLIPS
from gpupeak.demo.show import run_demo
from gpupeak.errors import ConfigError
from gpupeak.features.layout import feature_directory


def extraction(argv: Sequence[str], shift: int = 0) -> int:
    """What the command leaves behind, every peak `shift` frames from where it was drawn."""
    root = Path(argv[argv.index("--output-root") + 1])
    if argv[0] == "report":
        Path(argv[argv.index("--out") + 1]).write_text("a page")
        return 0
    for clip in CLIPS:
        directory = feature_directory(root, clip.dataset, "CLIP_VIT_LARGE", "emotion_peak", 8)
        write_features(directory, clip.name)
        at = clip.peak + shift
        line: dict[str, object] = {
            "sample": clip.name,
            "indices": [0, 5, at - 2, at - 1, at, at + 1, at + 2, clip.frames - 1],
        }
        if clip.source is None:
            line["fallback"] = {"reason": "no AU file", "detail": ""}
        else:
            line["peak"] = {"index": at, "source": clip.source, "file": ""}
        with (directory / "manifest.jsonl").open("a") as manifest:
            manifest.write(json.dumps(line) + "\n")
    return 0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures, no encoder: what the demo does around them."""
    monkeypatch.setattr(drawing, "draw_clip", lambda clip, seed: iter([np.zeros((360, 640, 3), np.uint8)]))


def run(out: Path, command: Callable[[Sequence[str]], int] = extraction) -> tuple[int, str]:
    screen = io.StringIO()
    console = Console(file=screen, width=120, markup=False, highlight=False)
    return run_demo(out, console, command, "auto", "random:0"), screen.getvalue()


def test_it_shows_the_files_an_array_and_the_frames(tmp_path: Path) -> None:
    code, screen = run(tmp_path / "demo")
    assert code == 0
    assert "seeded random numbers (random:0)" in screen
    assert f"Open it: {(tmp_path / 'demo/report.html').as_uri()}" in screen
    assert (tmp_path / "demo/report.html").read_text() == "a page"
    assert "frame_CLIP_VIT_LARGE_emotion_peak_8frms/sample_00000001.npy" in screen
    assert "numpy.load('sample_00000000.npy'): float32, shape (8, 768)" in screen
    assert "61, by au_info" in screen
    assert "no AU file: uniform" in screen
    assert "Every peak" in screen


def test_the_command_it_shows_is_the_one_it_runs_and_whose_exit_code_counts(tmp_path: Path) -> None:
    ran: list[Sequence[str]] = []

    def command(words: Sequence[str]) -> int:
        ran.append(words)
        return 3

    code, screen = run(tmp_path / "demo", command)
    assert code == 3
    assert [shlex.split(screen.partition("mean nothing.\n")[2].replace("\\\n", ""))[1:]] == ran
    assert ran[0][:3] == ["extract", "mer2023", "iemocap"]


def test_a_peak_found_elsewhere_is_noticed(tmp_path: Path) -> None:
    code, screen = run(tmp_path / "demo", lambda words: extraction(words, shift=1))
    assert code == 1
    assert "the peaks of " + ", ".join(clip.name for clip in CLIPS if clip.source is not None) in screen


def test_an_earlier_demo_is_made_anew_and_the_rest_left_alone(tmp_path: Path) -> None:
    run(tmp_path)
    for name in ("dataset/old.mp4", "preextracted_features/old.npy", "notes.txt"):
        (tmp_path / name).write_text("mine")
    assert run(tmp_path)[0] == 0
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"mine"] == [
        "notes.txt"
    ]


def test_a_directory_that_is_no_demo_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/precious.mp4").write_bytes(b"mine")
    (tmp_path / "gpupeak.toml").write_text("[datasets.mine]\n")
    with pytest.raises(ConfigError, match="holds no demo"):
        run(tmp_path)
    assert (tmp_path / "dataset/precious.mp4").read_bytes() == b"mine"
