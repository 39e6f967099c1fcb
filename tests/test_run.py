"""A whole run over small clips with a small encoder: skipping, refusing, recording, stopping."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from samples import ENCODER, read_manifest, small
from synthetic_lines import LineHere

import gpupeak
from gpupeak import ExtractConfig
from gpupeak.check.plan import plan
from gpupeak.errors import ConfigError
from gpupeak.peaks.sources import PEAK_SOURCES
from gpupeak.tally import Observer, Tally
from gpupeak.types import Outcome

EXAMPLES = Path(__file__).parents[1] / "examples" / "action-units"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("videos")
    for index in range(3):
        write_clip(directory / f"clip{index}.mp4", frames=20 + index)
    (directory / "broken.mp4").write_text("no video")
    return directory


@pytest.fixture
def config(videos: Path, tmp_path: Path) -> ExtractConfig:
    return small(videos, tmp_path / "out")


def directory(config: ExtractConfig) -> Path:
    (home,) = Path(str(config.output_root), "mine").iterdir()
    return home


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpupeak.lines.build.build", LineHere)


@pytest.fixture
def extracted(config: ExtractConfig) -> gpupeak.RunReport:
    return gpupeak.extract(config)


@pytest.mark.usefixtures("here")
def test_every_producer_of_action_units_gives_the_same_peak_and_features(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "clip.mp4", frames=5)
    for source in PEAK_SOURCES:
        (tmp_path / f"videos/{source}.mp4").hardlink_to(tmp_path / "clip.mp4")
    config = replace(small(tmp_path / "videos", tmp_path / "out"), sampling="emotion_peak", n_frms=2, aus=EXAMPLES)
    (planned,) = plan(config)
    assert planned.peaks == dict.fromkeys(PEAK_SOURCES, 1)
    assert gpupeak.extract(config).datasets[0].warnings == ["weights random:0: these features mean nothing"]
    lines = read_manifest(directory(config))
    assert {line["sample"]: line["indices"] for line in lines} == {key: [2, 3] for key in PEAK_SOURCES}
    assert len({path.read_bytes() for path in directory(config).glob("*.npy")}) == 1
    manifest = directory(config) / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"sample":"openface"', '"warnings":["odd"],"sample":"openface"'))
    assert plan(config)[0].warnings == ("mine: 1 sample saved: odd",)
    with pytest.raises(ConfigError, match="made with --face none, this run has --face 0"):
        gpupeak.extract(replace(config, face=0))
    with pytest.raises(ConfigError, match="made with --no-blinks none, this run has --no-blinks True"):
        gpupeak.extract(replace(config, no_blinks=True))
    assert gpupeak.extract(replace(config, smooth=1, min_confidence=0)).datasets[0].skipped == 8, "as without them"


def test_a_run_saves_every_good_sample_and_records_every_outcome(
    config: ExtractConfig, extracted: gpupeak.RunReport
) -> None:
    (tally,) = extracted.datasets
    assert (tally.listed, tally.saved, tally.failed, tally.skipped) == (4, 3, 1, 0)
    assert extracted.exit_code == 1
    assert extracted.device == "cpu"
    assert any(notice.startswith("on the CPU, as asked") for notice in extracted.notices)
    home = directory(config)
    assert home.name == "frame_open_clip_ViT-S-32-alt_uniform_8frms"
    features = gpupeak.load_features(config.output_root, "mine", "clip0", encoder=ENCODER, sampling="uniform")
    assert features.shape == (8, 256) and np.isfinite(features).all()
    lines = {entry["sample"]: entry for entry in read_manifest(home)}
    assert lines.keys() == {"clip0", "clip1", "clip2", "broken"}
    assert lines["clip1"]["frames"] == 21
    assert lines["clip1"]["codec"] == "h264"
    assert set(lines["clip1"]["seconds"]) == {"plan", "decode", "encode", "write"}
    assert lines["broken"]["stage"] == "plan"
    run = json.loads((home / "run.json").read_text())
    assert run["settings"]["weights"] == "random:0"
    assert run["settings"]["sampling"] == "uniform"
    assert run["versions"]["gpupeak"] == gpupeak.__version__
    checkout = (Path(gpupeak.__file__).parents[1] / ".git").exists()
    assert bool(re.fullmatch("[0-9a-f]{40}(-dirty)?", run["versions"].get("commit", ""))) == checkout
    json.dumps(extracted.to_json())


@pytest.mark.usefixtures("here")
def test_a_second_run_skips_what_is_whole_and_tries_again_what_failed(
    config: ExtractConfig, extracted: gpupeak.RunReport
) -> None:
    home = directory(config)
    (home / "clip1.npy").write_bytes((home / "clip1.npy").read_bytes()[:-1])  # torn by another tool
    before = (home / "clip0.npy").stat().st_mtime_ns
    (tally,) = gpupeak.extract(replace(config, workers=3)).datasets
    assert (tally.saved, tally.skipped, tally.failed) == (1, 2, 1)
    assert (home / "clip0.npy").stat().st_mtime_ns == before
    assert len(list(read_manifest(home))) == 4


@pytest.mark.usefixtures("here")
def test_a_plan_and_a_rerun_over_finished_work_import_no_torch(
    config: ExtractConfig, extracted: gpupeak.RunReport, tmp_path: Path
) -> None:
    (tmp_path / "good.txt").write_text("clip0\nclip1\nclip2\n")
    code = (
        "import sys, gpupeak; from pathlib import Path; from gpupeak.check.plan import plan;"
        f"config = gpupeak.ExtractConfig(videos=Path({str(config.videos)!r}), name='mine',"
        f"output_root=Path({str(config.output_root)!r}), sampling='uniform', encoder={ENCODER!r},"
        f"samples=Path({str(tmp_path / 'good.txt')!r}), weights='random:0');"
        "plans, report = plan(config), gpupeak.extract(config);"
        "assert plans[0].done == 3;"
        "assert report.datasets[0].skipped == 3 and report.exit_code == 0, report;"
        "print([name for name in ('torch', 'av', 'fsspec', 'ray') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed == "[]\n"


def test_other_weights_are_refused_and_overwrite_makes_them_all_again(
    config: ExtractConfig, extracted: gpupeak.RunReport
) -> None:
    home = directory(config)
    before = (home / "clip0.npy").read_bytes()
    other = replace(config, weights="random:1")
    with pytest.raises(ConfigError, match="give another --output-root"):
        gpupeak.extract(other)
    assert (home / "clip0.npy").read_bytes() == before
    (tally,) = gpupeak.extract(replace(other, overwrite=True)).datasets
    assert (tally.saved, tally.skipped) == (3, 0)
    assert (home / "clip0.npy").read_bytes() != before
    with pytest.raises(ConfigError, match="give another --output-root"):
        gpupeak.extract(config)


@pytest.mark.usefixtures("here")
def test_the_versions_that_made_files_stay_listed(config: ExtractConfig, extracted: gpupeak.RunReport) -> None:
    home = directory(config)
    run = json.loads((home / "run.json").read_text())
    now, before = run["versions"], {**run["versions"], "torch": "1.0"}
    (home / "run.json").write_text(json.dumps({**run, "versions": before}))
    (home / "clip0.npy").unlink()
    for overwrite, earlier in ((False, [before]), (False, [before]), (True, [])):
        gpupeak.extract(replace(config, overwrite=overwrite))  # one sample fails: it is tried each time
        run = json.loads((home / "run.json").read_text())
        assert (run["versions"], run["earlier_versions"]) == (now, earlier)


def test_stopping_ends_the_run_whole_and_the_next_one_goes_on(config: ExtractConfig) -> None:
    stop = threading.Event()

    class StopAtFirst(Observer):
        def advanced(self, tally: Tally, outcome: Outcome) -> None:
            stop.set()

    report = gpupeak.extract(replace(config, limit=3), StopAtFirst(), stop)
    assert report.interrupted
    assert report.exit_code == 130
    (first,) = report.datasets
    assert first.not_reached >= 1
    (second,) = gpupeak.extract(replace(config, limit=3)).datasets
    assert second.not_reached == 0
    assert second.skipped == first.saved


def test_a_name_that_differs_by_capitals_from_what_is_there_is_refused(config: ExtractConfig) -> None:
    root = Path(str(config.output_root))
    for there in ("MINE/frame_CLIP_VIT_LARGE_uniform_8frms", "OTHER/aus", "Mine"):
        (root / there).mkdir(parents=True)
    for command in (plan, gpupeak.extract):
        with pytest.raises(ConfigError, match=f"^mine: {root} has features of MINE, and capitals do not tell"):
            command(config)
    for name in ("Mine", "MINE", "other"):  # there already, or no features
        assert plan(replace(config, name=name))[0].listed == 4
