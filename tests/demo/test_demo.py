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

from gpupeak.demo import show as demo
from gpupeak.demo.corpus import CLIPS, DemoCorpus
from gpupeak.errors import ConfigError, WriteError
from gpupeak.features.layout import feature_directory
from gpupeak.features.npy import npy_header


def extraction(argv: Sequence[str], shift: int = 0) -> int:
    """What the command leaves behind, every peak `shift` frames from where it was drawn."""
    root = Path(argv[argv.index("--output-root") + 1])
    for dataset in ("mer2023", "iemocap"):
        directory = feature_directory(root, dataset, "CLIP_VIT_LARGE", "emotion_peak", 8)
        directory.mkdir(parents=True)
        lines = []
        for clip in (clip for clip in CLIPS if clip.dataset == dataset):
            (directory / f"{clip.name}.npy").write_bytes(npy_header((8, 768)) + np.zeros((8, 768), "<f4").tobytes())
            at = clip.peak + shift
            peak = None if clip.source is None else {"index": at, "source": clip.source, "file": ""}
            fallback = {"reason": "no AU file", "detail": ""} if clip.source is None else None
            indices = sorted({0, at - 2, at - 1, at, at + 1, at + 2, 5, clip.frames - 1})
            lines.append(json.dumps({"sample": clip.name, "indices": indices, "peak": peak, "fallback": fallback}))
        (directory / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return 0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No videos, no encoder: what the demo does around them."""

    def make_corpus(root: Path) -> DemoCorpus:
        (root / "dataset").mkdir(parents=True)
        (root / "dataset/clip.mp4").write_bytes(b"new")
        (root / "gpupeak.toml").write_text(CONFIG)
        return DemoCorpus(("mer2023", "iemocap"), root / "dataset", root / "mer-factory-output", root / "gpupeak.toml")

    monkeypatch.setattr(demo, "make_corpus", make_corpus)


CONFIG = "# The demo's datasets are smaller than the ones whose names they bear.\n"


def run(out: Path, command: Callable[[Sequence[str]], int] = extraction) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=120, markup=False, highlight=False)
    code = demo.run_demo(out, console, command, "auto", "random:0")
    return code, console.file.getvalue()


@pytest.mark.usefixtures("quick")
def test_it_shows_the_files_an_array_and_the_frames(tmp_path: Path) -> None:
    code, screen = run(tmp_path / "demo")
    assert code == 0
    assert "seeded random numbers (random:0)" in screen
    assert "frame_CLIP_VIT_LARGE_emotion_peak_8frms/" in screen
    assert "numpy.load('sample_00000000.npy'): float32, shape (8, 768)" in screen
    assert "61, by au_info" in screen
    assert "no AU file: uniform" in screen
    assert "Every peak" in screen


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("code", [1, 3, 130])
def test_the_command_it_shows_is_the_one_it_runs_and_whose_exit_code_counts(tmp_path: Path, code: int) -> None:
    ran: list[Sequence[str]] = []
    found, screen = run(tmp_path / "demo", lambda words: ran.append(words) or code)
    assert found == code
    assert [shlex.split(screen.partition("The run\n")[2].partition("The weights")[0].replace("\\\n", ""))[1:]] == ran
    assert ran[0][:3] == ["extract", "mer2023", "iemocap"]


@pytest.mark.usefixtures("quick")
def test_a_peak_found_elsewhere_is_noticed(tmp_path: Path) -> None:
    code, screen = run(tmp_path / "demo", lambda words: extraction(words, shift=1))
    assert code == 1
    told = [clip.name for clip in CLIPS if clip.source is not None]
    assert "the peaks of " + ", ".join(told) in screen


@pytest.mark.usefixtures("quick")
def test_an_earlier_demo_is_made_anew_and_the_rest_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    run(out)
    (out / "dataset/clip.mp4").write_bytes(b"old")
    (out / "preextracted_features/old.npy").write_bytes(b"old")
    (out / "notes.txt").write_text("mine")
    assert run(out)[0] == 0
    assert (out / "dataset/clip.mp4").read_bytes() == b"new"
    assert not (out / "preextracted_features/old.npy").exists()
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("config", [None, "[datasets.mine]\n"])
def test_a_directory_that_is_no_demo_is_never_touched(tmp_path: Path, config: str | None) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/precious.mp4").write_bytes(b"mine")
    if config is not None:
        (tmp_path / "gpupeak.toml").write_text(config)
    with pytest.raises(ConfigError, match="holds no demo"):
        run(tmp_path)
    assert (tmp_path / "dataset/precious.mp4").read_bytes() == b"mine"


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot be written there"):
        run(tmp_path / "file" / "demo")
