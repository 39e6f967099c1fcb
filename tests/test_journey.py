"""A user's way through gpupeak, by the command line alone: from lists, videos and action units to features."""

from __future__ import annotations

import json
import os
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


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "gpupeak", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=250)
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
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("videos")
    for name in ("one", "two"):
        write_clip(directory / f"{name}.mp4", frames=16)
    return directory


def test_the_library_alone_does_the_same(videos: Path, tmp_path: Path) -> None:
    script = tmp_path / "extract.py"  # no main guard: the decoding processes do not import the user's script
    script.write_text(
        "from pathlib import Path\nimport gpupeak\n"
        f"report = gpupeak.extract(gpupeak.ExtractConfig(videos=Path({str(videos)!r}), name='mine',\n"
        f"    sampling='uniform', output_root=Path({str(tmp_path)!r}), encoder={ENCODER[1]!r}, weights='random:0'))\n"
        "assert report.exit_code == 0\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=250)
    assert sorted(path.name for path in tmp_path.rglob("*.npy")) == ["one.npy", "two.npy"]


def test_closed_standard_streams_are_no_obstacle(videos: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("faults") / "synthetic_cli.py"  # the line, less its encoder
    given = ["extract", "--videos", videos, "--name", "mine", "--sampling", "uniform", "--output-root", tmp_path]
    words = " ".join(f"'{word}'" for word in [sys.executable, script, *given, "--weights", "random:0"])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["sh", "-c", f"{words} <&- >&-"], stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*.npy")) == ["one.npy", "two.npy"]
