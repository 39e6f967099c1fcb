"""What is in one video, which frames would be taken of it, and what is extracted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write_clip
from samples import read_manifest

import gpupeak
from gpupeak import ExtractConfig
from gpupeak.check.inspect import Extracted, inspect_video
from gpupeak.demo.corpus import CLIPS, DemoCorpus
from gpupeak.errors import SampleError
from gpupeak.sampling import uniform

SAMPLE = "mer2023/sample_00000000"
HOME = "mer2023/frame_open_clip_ViT-S-32-alt_emotion_peak_8frms"


def extracted_of(config: ExtractConfig, target: str = SAMPLE) -> Extracted:
    found = inspect_video(config, target)
    assert found.extracted is not None
    json.dumps(found.to_json(), allow_nan=False)
    return found.extracted


def test_an_inspection_is_the_plan_that_a_run_records(config: ExtractConfig) -> None:
    for clip in CLIPS:
        found = inspect_video(config, f"{clip.dataset}/{clip.name}")
        (home,) = Path(config.output_root, clip.dataset).iterdir()
        (entry,) = [entry for entry in read_manifest(home) if entry["sample"] == clip.name]
        assert list(found.plan.indices) == entry["indices"]
        assert found.plan.frames == entry["frames"] == clip.frames
        if clip.source is not None:
            assert found.plan.peak is not None
            assert (found.plan.peak.index, found.plan.peak.source) == (clip.peak, clip.source)
        assert 8 <= found.packets_needed <= found.packets
        assert (found.width, found.height, found.fps) == (640, 360, 25)
        assert found.times[0] == found.plan.indices[0] / 25


def test_a_path_is_inspected_too(corpus: DemoCorpus, config: ExtractConfig) -> None:
    video = str(next((corpus.dataset_root / "iemocap-process").rglob("*.avi")))
    found = inspect_video(ExtractConfig(), video)
    assert found.plan.codec == "mpeg4"
    assert found.plan.fallback is not None
    for where in ("aus", "mer_factory_output"):
        aus: dict[str, Any] = {where: corpus.mer_factory_output / "IEMOCAPFour"}
        assert inspect_video(replace(ExtractConfig(), **aus), video).plan.peak is not None
    assert inspect_video(config, video).extracted is None, "a video by its path is of no dataset"


def test_an_inspection_tells_what_is_extracted(corpus: DemoCorpus, config: ExtractConfig, tmp_path: Path) -> None:
    file = tmp_path / "new" / HOME / "sample_00000000.npy"
    assert extracted_of(replace(config, output_root=tmp_path / "new")) == Extracted(
        file, "none", recorded=None, indices=(), agrees=None, problem=None
    )
    assert not (tmp_path / "new").exists()

    found = inspect_video(config, SAMPLE)
    there = extracted_of(config)
    assert (there.state, there.recorded, there.problem) == ("whole, float32 [8, 256]", "saved", None)
    assert there.marks == ("weights random:0: these features mean nothing",)
    assert (there.indices, there.agrees) == (found.plan.indices, True)

    other = extracted_of(replace(config, weights="random:1", limit=1), "mer2023/sample_00000002")
    assert "made with --weights random:0, this run has --weights random:1" in str(other.problem)

    aus = shutil.copytree(corpus.mer_factory_output, tmp_path / "aus")
    (info,) = aus.rglob("sample_00000000_au_analysis.json")
    info.write_text(info.read_text().replace('"peak_index": 61', '"peak_index": 20'))
    moved = extracted_of(replace(config, mer_factory_output=aus))
    assert (moved.agrees, moved.indices) == (False, found.plan.indices)


@pytest.mark.parametrize(
    ("damage", "state", "recorded"),
    [
        (lambda home: (home / "sample_00000000.npy").write_bytes(b"torn"), "no .npy file (4 bytes)", "saved"),
        (lambda home: (home / "sample_00000000.npy").unlink(), "none", "saved"),
        (lambda home: (home / "manifest.jsonl").unlink(), "whole", None),
        (lambda home: _append(home, outcome="kept"), "whole", "kept, of unknown origin"),
        (lambda home: _append(home, outcome="failed", stage="plan", reason="x"), "whole", "failed: plan: x"),
        (lambda home: _append(home, outcome=3, indices=[1, "a"]), "whole", "saved"),
        (lambda home: (home / "run.json").write_text("[]"), "whole", "saved"),
    ],
)
def test_what_is_extracted_may_be_damaged(
    damage: Callable[[Path], object], state: str, recorded: str | None, config: ExtractConfig
) -> None:
    home = Path(config.output_root, HOME)
    damage(home)
    there = extracted_of(config)
    assert there.state.startswith(state)
    assert there.recorded == recorded
    assert (there.problem is not None) is ((home / "run.json").read_text() == "[]")


def _append(home: Path, **entry: object) -> None:
    with (home / "manifest.jsonl").open("a") as file:
        file.write(json.dumps({"sample": "sample_00000000", **entry}) + "\n")


def test_faces_are_inspected_too(config: ExtractConfig, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "openface_face").mkdir()
    file = tmp_path / "openface_face/a.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (20, 60, 40, 3), np.uint8))
    faces = replace(config, datasets=(), videos=tmp_path / "videos", name="mine", stream="face")
    gpupeak.extract(faces)
    found = inspect_video(faces, "a")
    assert (found.plan.codec, found.plan.frames, found.width, found.height) == ("faces", 20, 40, 60)
    assert found.plan.indices == tuple(uniform(20, 8))
    there = extracted_of(faces, "a")
    assert (there.state, there.agrees) == ("whole, float32 [8, 256]", True)
    alone = inspect_video(ExtractConfig(stream="face"), str(file))
    assert (alone.plan.indices, alone.extracted) == (found.plan.indices, None)


def test_a_target_is_looked_for_in_the_datasets_that_are_there(config: ExtractConfig) -> None:
    found = inspect_video(replace(config, datasets=()), "Ses05F_impro01_F000")
    assert str(found.plan.sample) == "iemocap/Ses05F_impro01_F000"


def test_a_video_of_which_no_picture_decodes_is_refused(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "clip.avi", frames=4, codec="mjpeg", pix_fmt="yuvj420p")
    jpegs = re.sub(rb"(?s)(?<=\xff\xc0..\x08)....", b"\xff" * 4, video.read_bytes())  # each of 65535x65535 pixels
    video.write_bytes(jpegs)
    with pytest.raises(SampleError, match="none of its 4 video packets can be decoded"):
        inspect_video(ExtractConfig(), str(video))
