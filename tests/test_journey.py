"""A user's way through gpupeak, by the command line alone: from lists, videos and action units to features."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from samples import read_manifest

import gpupeak
from gpupeak.demo.corpus import CLIPS, DemoCorpus

ENCODER = ("--visual-encoder", "open_clip:ViT-S-32-alt", "--weights", "random:0", "--device", "cpu", "--workers", "2")
HOME = "frame_open_clip_ViT-S-32-alt_emotion_peak_8frms"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "gpupeak", *map(str, arguments)]


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=250)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_from_two_datasets_to_features_that_load(corpus: DemoCorpus, tmp_path: Path) -> None:
    out = tmp_path / "features"
    given: list[str | Path] = ["--datasets", *corpus.datasets, "--dataset-root", corpus.dataset_root]
    given += ["--output-root", out, *ENCODER]
    given += ["--mer-factory-output", corpus.mer_factory_output, "--config", corpus.config_file]
    planned = json.loads(run("plan", *given, "--json").stdout)
    assert [each["listed"] for each in planned["datasets"]] == [3, 2]

    summary = json.loads(run("extract", *given, "--json").stdout)
    assert (summary["saved"], summary["failed"], summary["skipped"]) == (5, 0, 0)
    for clip in CLIPS:
        features = gpupeak.load_features(out, clip.dataset, clip.name, encoder="open_clip_ViT-S-32-alt")
        assert features.shape == (8, 256)
        np.testing.assert_array_equal(features, np.load(out / clip.dataset / HOME / f"{clip.name}.npy"))
        assert not np.array_equal(features[0], features[-1]), "another frame has other features"
        (entry,) = [e for e in read_manifest(out / clip.dataset / HOME) if e["sample"] == clip.name]
        if clip.source is None:
            assert entry["fallback"]["reason"] == "no AU file"
        else:
            assert (entry["peak"]["source"], entry["peak"]["index"]) == (clip.source, clip.peak)
            assert clip.peak in entry["indices"]

    again = json.loads(run("extract", *given, "--json").stdout)
    assert (again["saved"], again["skipped"]) == (0, 5)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty videos: enough for a run to be cut off in the middle."""
    directory = tmp_path_factory.mktemp("many")
    for kind in range(3):
        clip = write_clip(directory / f"clip {kind} 00.mp4", frames=16 + kind)
        for copy in range(1, 10):
            os.link(clip, directory / f"clip {kind} {copy:02d}.mp4")
    return directory


def extract(many: Path, out: Path) -> list[str | Path]:
    return ["extract", "--videos", many, "--name", "many", "--sampling", "uniform", "--output-root", out, *ENCODER]


def home(out: Path) -> Path:
    return out / "many" / HOME.replace("emotion_peak", "uniform")


def features(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home(out).glob("*.npy")}


@pytest.fixture(scope="module")
def undisturbed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    run(*extract(many, out), "--quiet")
    return features(out)


@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGINT] * 2])
def test_a_run_cut_off_leaves_only_whole_files_and_the_next_one_ends_it(
    many: Path, undisturbed: dict[str, bytes], tmp_path: Path, signals: list[signal.Signals]
) -> None:
    process = subprocess.Popen(command(*extract(many, tmp_path)), stderr=subprocess.PIPE, text=True)
    while not features(tmp_path):
        assert process.poll() is None, process.communicate()
    process.send_signal(signals[0])
    if len(signals) == 2:
        assert process.stderr is not None
        while "again to stop at once" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signals[1])
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if signals[0] is signal.SIGKILL else 130), errors
    assert "Traceback" not in errors
    left = features(tmp_path)
    assert 0 < len(left) < 30
    assert all(undisturbed[name] == data for name, data in left.items()), "every file there is whole"

    summary = json.loads(run(*extract(many, tmp_path), "--json").stdout)
    assert summary["skipped"] >= len(left) - 1
    assert summary["skipped"] + summary["saved"] == 30
    assert features(tmp_path) == undisturbed
    assert not list(home(tmp_path).glob(".*")), "no temporaries are left"
    assert len({entry["sample"] for entry in read_manifest(home(tmp_path))}) == 30


def test_the_library_alone_does_the_same(many: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    script = tmp_path / "extract.py"  # no main guard: the decoding processes do not import the user's script
    script.write_text(
        "from pathlib import Path\nimport gpupeak\n"
        f"report = gpupeak.extract(gpupeak.ExtractConfig(videos=Path({str(many)!r}), name='many', limit=3,\n"
        f"    sampling='uniform', output_root=Path({str(tmp_path)!r}), encoder={ENCODER[1]!r}, weights='random:0'))\n"
        "assert report.exit_code == 0\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=250)
    assert len(features(tmp_path)) == 3
    assert features(tmp_path).items() <= undisturbed.items()


def test_closed_standard_streams_are_no_obstacle(many: Path, tmp_path: Path) -> None:
    words = " ".join(f"'{word}'" for word in command(*extract(many, tmp_path), "--limit", "2"))
    done = subprocess.run(["sh", "-c", f"{words} <&- >&-"], stderr=subprocess.PIPE, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert len(features(tmp_path)) == 2
