"""Looking without decoding: what a run would do, and what one video holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clips import write_clip

import gpupeak
from gpupeak import ExtractConfig
from gpupeak.demo_corpus import CLIPS, Corpus, make_corpus
from gpupeak.errors import AuError, ConfigError, SampleError
from gpupeak.store import read_manifest
from gpupeak.survey import examine, survey

SMALL = {"encoder": "open_clip:ViT-S-32-alt", "weights": "random:0", "device": "cpu", "workers": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def config(corpus: Corpus, out: Path, **changes: object) -> ExtractConfig:
    settings: dict[str, object] = {
        "datasets": corpus.datasets,
        "dataset_root": corpus.dataset_root,
        "mer_factory_output": corpus.mer_factory_output,
        "config_file": corpus.config_file,
        "output_root": out,
        **SMALL,
        **changes,
    }
    return ExtractConfig(**settings)  # type: ignore[arg-type]


def test_a_survey_counts_what_a_run_then_does(corpus: Corpus, tmp_path: Path) -> None:
    settings = config(corpus, tmp_path / "out")
    mer2023, iemocap = survey(settings)
    assert (mer2023.dataset, mer2023.listed, mer2023.expected, mer2023.done) == ("mer2023", 3, 3, 0)
    assert mer2023.peaks == {"au_info": 1, "merr_data": 1}
    assert mer2023.no_peak == {"no AU file": 1}
    assert iemocap.peaks == {"openface": 1, "per_frame": 1}
    assert mer2023.bytes_to_write == 3 * (128 + 8 * 256 * 4)
    assert not (tmp_path / "out").exists(), "a survey writes nothing"

    report = gpupeak.extract(settings)
    assert [tally.peaks for tally in report.datasets] == [mer2023.peaks, iemocap.peaks]
    assert sum(p.stat().st_size for p in mer2023.directory.glob("*.npy")) == mer2023.bytes_to_write
    after, _ = survey(settings)
    assert (after.done, after.bytes_to_write) == (3, 0)
    json.dumps([each.to_json() for each in survey(settings)])


def test_a_survey_refuses_what_a_run_would(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(AuError):
        survey(config(corpus, tmp_path, mer_factory_output=tmp_path / "none"))


def test_missing_videos_are_counted_and_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "here.mp4", frames=9)
    (tmp_path / "list.txt").write_text("here\ngone\n../out\n")
    (mine,) = survey(
        ExtractConfig(videos=tmp_path, name="mine", samples=tmp_path / "list.txt", sampling="uniform", **SMALL)  # type: ignore[arg-type]
    )
    assert (mine.listed, mine.missing_videos, mine.missing_first) == (3, 1, ("gone",))
    assert mine.refused == ("../out",)
    assert mine.peaks == mine.no_peak == {}
    assert mine.bytes_to_write == 128 + 8 * 256 * 4


def test_an_examination_is_the_plan_that_a_run_records(corpus: Corpus, tmp_path: Path) -> None:
    settings = config(corpus, tmp_path / "out")
    gpupeak.extract(settings)
    for clip in CLIPS:
        found = examine(settings, f"{clip.dataset}/{clip.name}")
        (home,) = (tmp_path / "out" / clip.dataset).iterdir()
        (entry,) = [entry for entry in read_manifest(home) if entry["sample"] == clip.name]
        assert list(found.plan.indices) == entry["indices"]
        assert found.plan.frames == entry["frames"] == clip.frames
        if clip.source is not None:
            assert found.plan.peak is not None
            assert (found.plan.peak.index, found.plan.peak.source) == (clip.peak, clip.source)
        assert 8 <= found.packets_needed <= found.packets
        assert (found.width, found.height, found.fps) == (640, 360, 25)
        assert found.times[0] == found.plan.indices[0] / 25
        json.dumps(found.to_json())


def test_a_path_is_examined_too(corpus: Corpus, tmp_path: Path) -> None:
    video = next((corpus.dataset_root / "iemocap-process").rglob("*.avi"))
    found = examine(ExtractConfig(**SMALL), str(video))  # type: ignore[arg-type]
    assert found.plan.codec == "mpeg4"
    assert found.plan.fallback is not None
    for where in ("aus", "mer_factory_output"):
        settings = ExtractConfig(**{where: corpus.mer_factory_output / "IEMOCAPFour"}, **SMALL)  # type: ignore[arg-type]
        assert examine(settings, str(video)).plan.peak is not None


def test_a_target_that_is_nothing_is_told_in_one_line(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'mer2023/nobody' is neither a video file nor a sample"):
        examine(config(corpus, tmp_path), "mer2023/nobody")
    with pytest.raises(ConfigError, match=r"there is no video .*gone\.mp4"):
        examine(ExtractConfig(), str(tmp_path / "gone.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SampleError):
        examine(ExtractConfig(), str(tmp_path / "text.mp4"))
