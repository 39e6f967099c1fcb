"""Looking without decoding: what a run would do, and what one video holds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from samples import read_manifest

import gpupeak
from gpupeak import ExtractConfig
from gpupeak.check.survey import examine, survey
from gpupeak.demo.corpus import CLIPS, DemoCorpus
from gpupeak.errors import AuError, ConfigError, LabelError, RunError, SampleError
from gpupeak.sampling import uniform

SMALL = {"encoder": "open_clip:ViT-S-32-alt", "weights": "random:0", "device": "cpu", "workers": 1}


@pytest.fixture(scope="module")
def extracted(corpus: DemoCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output root, to be copied and not changed."""
    out = tmp_path_factory.mktemp("extracted")
    gpupeak.extract(config(corpus, out, datasets=("mer2023",)))
    return out


def config(corpus: DemoCorpus, out: Path, **changes: object) -> ExtractConfig:
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


def test_a_survey_counts_what_a_run_then_does(corpus: DemoCorpus, tmp_path: Path) -> None:
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


def test_a_survey_refuses_what_a_run_would(corpus: DemoCorpus, tmp_path: Path) -> None:
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


def test_an_examination_is_the_plan_that_a_run_records(corpus: DemoCorpus, tmp_path: Path) -> None:
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


def test_a_path_is_examined_too(corpus: DemoCorpus, tmp_path: Path) -> None:
    video = next((corpus.dataset_root / "iemocap-process").rglob("*.avi"))
    found = examine(ExtractConfig(**SMALL), str(video))  # type: ignore[arg-type]
    assert found.plan.codec == "mpeg4"
    assert found.plan.fallback is not None
    for where in ("aus", "mer_factory_output"):
        settings = ExtractConfig(**{where: corpus.mer_factory_output / "IEMOCAPFour"}, **SMALL)  # type: ignore[arg-type]
        assert examine(settings, str(video)).plan.peak is not None


def test_an_examination_tells_what_is_extracted(corpus: DemoCorpus, tmp_path: Path) -> None:
    settings = config(corpus, tmp_path / "out", datasets=("mer2023",))
    target = "mer2023/sample_00000000"
    before = examine(settings, target).extracted
    assert before is not None
    home = tmp_path / "out/mer2023/frame_open_clip_ViT-S-32-alt_emotion_peak_8frms"
    assert (before.file, before.state, before.recorded) == (home / "sample_00000000.npy", "none", None)
    assert (before.indices, before.agrees, before.made_by, before.problem) == ((), None, None, None)
    assert not (tmp_path / "out").exists()

    gpupeak.extract(settings)
    found = examine(settings, target)
    there = found.extracted
    assert there is not None
    assert (there.state, there.recorded, there.problem) == ("whole, float32 [8, 256]", "saved", None)
    assert (there.indices, there.agrees) == (found.plan.indices, True)
    assert there.made_by is not None
    assert there.made_by.startswith(f"gpupeak {gpupeak.__version__} on cpu, weights random:0, 20")
    json.dumps(found.to_json(), allow_nan=False)

    other = examine(dataclasses.replace(settings, weights="random:1", limit=1), "mer2023/sample_00000002").extracted
    assert other is not None
    assert other.problem is not None
    assert "made with weights 'random:0', this run has 'random:1'" in other.problem

    aus = shutil.copytree(corpus.mer_factory_output, tmp_path / "aus")
    (info,) = aus.rglob("sample_00000000_au_analysis.json")
    info.write_text(info.read_text().replace('"peak_index": 61', '"peak_index": 20'))
    moved = examine(dataclasses.replace(settings, mer_factory_output=aus), target)
    assert moved.extracted is not None
    assert (moved.extracted.agrees, moved.extracted.indices) == (False, found.plan.indices)
    assert moved.plan.indices != found.plan.indices

    video = str(found.sample.video)
    assert examine(settings, video).extracted is None, "a video by its path is of no dataset"


@pytest.mark.parametrize(
    ("damage", "state", "recorded"),
    [
        (lambda home: (home / "sample_00000000.npy").write_bytes(b"torn"), "no .npy file (4 bytes)", "saved"),
        (lambda home: (home / "sample_00000000.npy").unlink(), "none", "saved"),
        (lambda home: _loop(home / "sample_00000000.npy"), "cannot be read", "saved"),
        (lambda home: (home / "manifest.jsonl").unlink(), "whole", None),
        (lambda home: _append(home, outcome="kept"), "whole", "kept, of unknown origin"),
        (lambda home: _append(home, outcome="failed", stage="plan", reason="x"), "whole", "failed: plan: x"),
        (lambda home: _append(home, outcome=3, indices=[1, "a"]), "whole", "3"),
        (lambda home: (home / "run.json").write_text("[]"), "whole", "saved"),
        (lambda home: (home / "run.json").write_text('{"settings": 3, "versions": []}'), "whole", "saved"),
    ],
)
def test_what_is_extracted_may_be_damaged(
    damage: Callable[[Path], object],
    state: str,
    recorded: str | None,
    corpus: DemoCorpus,
    extracted: Path,
    tmp_path: Path,
) -> None:
    shutil.copytree(extracted, tmp_path / "out")
    home = tmp_path / "out/mer2023/frame_open_clip_ViT-S-32-alt_emotion_peak_8frms"
    damage(home)
    there = examine(config(corpus, tmp_path / "out"), "mer2023/sample_00000000").extracted
    assert there is not None
    assert there.state.startswith(state)
    assert there.recorded == recorded
    assert (there.problem is not None) is ((home / "run.json").read_text() == "[]")
    json.dumps(there.to_json(), allow_nan=False)


def test_a_manifest_that_cannot_be_read_is_named(corpus: DemoCorpus, tmp_path: Path) -> None:
    (tmp_path / "out/mer2023/frame_open_clip_ViT-S-32-alt_emotion_peak_8frms/manifest.jsonl").mkdir(parents=True)
    with pytest.raises(RunError, match=r"manifest\.jsonl: cannot be read: Is a directory"):
        examine(config(corpus, tmp_path / "out"), "mer2023/sample_00000000")


def _loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _append(home: Path, **entry: object) -> None:
    with (home / "manifest.jsonl").open("a") as file:
        file.write(json.dumps({"sample": "sample_00000000", **entry}) + "\n")


def test_a_sample_is_found_in_the_datasets_that_are_there(corpus: DemoCorpus, tmp_path: Path) -> None:
    some = config(corpus, tmp_path, datasets=())
    assert str(examine(some, "Ses05F_impro01_F000").sample) == "iemocap/Ses05F_impro01_F000"
    with pytest.raises(ConfigError, match="'nobody' is neither a video file nor a sample of the datasets"):
        examine(some, "nobody")
    with pytest.raises(LabelError):
        examine(dataclasses.replace(some, datasets=("meld",)), "nobody")


def test_faces_are_examined_too(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "openface_face").mkdir()
    file = tmp_path / "openface_face/a.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (20, 60, 40, 3), np.uint8))
    settings = ExtractConfig(
        videos=tmp_path / "videos",
        name="mine",
        output_root=tmp_path / "out",
        stream="face",
        **SMALL,  # type: ignore[arg-type]
    )
    gpupeak.extract(settings)
    found = examine(settings, "a")
    assert (found.plan.codec, found.plan.frames, found.width, found.height) == ("faces", 20, 40, 60)
    assert found.plan.indices == tuple(uniform(20, 8))
    assert found.extracted is not None
    assert (found.extracted.state, found.extracted.agrees) == ("whole, float32 [8, 256]", True)
    alone = examine(ExtractConfig(stream="face"), str(file))
    assert (alone.plan.indices, alone.extracted) == (found.plan.indices, None)
    json.dumps(found.to_json())


def test_a_target_that_is_nothing_is_told_in_one_line(corpus: DemoCorpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'mer2023/nobody' is neither a video file nor a sample"):
        examine(config(corpus, tmp_path), "mer2023/nobody")
    with pytest.raises(ConfigError, match=r"there is no video .*gone\.mp4"):
        examine(ExtractConfig(), str(tmp_path / "gone.mp4"))
    for place in ("/dev/null", str(tmp_path)):
        with pytest.raises(ConfigError, match=f"there is no video {place}"):
            examine(ExtractConfig(), place)
    for name in ("nobody", "~nobody-of-this-name", "", "x" * 5000, "a\0b"):
        with pytest.raises(ConfigError, match="is neither a video file nor a sample of mer2023, iemocap"):
            examine(config(corpus, tmp_path), name)
        with pytest.raises(LabelError, match="is not there; --dataset-root says where"):
            examine(ExtractConfig(dataset_root=tmp_path), name)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SampleError):
        examine(ExtractConfig(), str(tmp_path / "text.mp4"))
