"""The drawn corpus: what it says of its peaks is true of its pictures and its files."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from gpupeak.demo.corpus import CLIPS, Clip, DemoCorpus, Expression, draw_clip
from gpupeak.peaks.reading import read_peak
from gpupeak.peaks.sources import PEAK_SOURCES
from gpupeak.types import NoPeak, Peak

EVERY_CLIP = pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)


def video(corpus: DemoCorpus, clip: Clip) -> Path:
    (path,) = corpus.dataset_root.rglob(f"{clip.name}.*")
    return path


def au_directory(corpus: DemoCorpus, clip: Clip) -> Path:
    return corpus.mer_factory_output / {"mer2023": "MER2023", "iemocap": "IEMOCAPFour"}[clip.dataset]


def labels(path: Path, key: str) -> dict[str, dict[str, object]]:
    with np.load(path, allow_pickle=True) as archive:
        array = archive[key]
    assert array.shape == () and array.dtype == object
    return array.item()


def test_a_demo_stays_small_and_shows_every_source_and_a_fallback() -> None:
    assert len(CLIPS) <= 6
    assert {clip.source for clip in CLIPS} == {*PEAK_SOURCES, None}


@EVERY_CLIP
def test_clips_are_as_the_datasets_have_them(corpus: DemoCorpus, clip: Clip) -> None:
    with av.open(video(corpus, clip)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        codec, rate = stream.codec_context.name, stream.average_rate
    assert len(frames) == clip.frames
    assert 3 <= clip.frames / float(rate) <= 5
    if clip.dataset == "mer2023":
        assert (codec, video(corpus, clip).suffix) == ("h264", ".mp4")
        assert av.video.frame.PictureType.B in {frame.pict_type for frame in frames}
    else:
        assert (codec, video(corpus, clip).suffix) == ("mpeg4", ".avi")


@EVERY_CLIP
def test_the_face_shows_most_at_the_peak(corpus: DemoCorpus, clip: Clip) -> None:
    """Decoded frames against the same clip drawn with a face that shows nothing: head, wall and noise cancel."""
    neutral = dataclasses.replace(clip, expression=Expression("neutral", {}))
    drawn = draw_clip(neutral, seed=CLIPS.index(clip))
    with av.open(video(corpus, clip)) as container:
        decoded = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
        shown = [
            np.abs(one[225:325, 255:385].astype(float) - other[225:325, 255:385]).mean()
            for one, other in zip(decoded, drawn, strict=True)
        ]
    at_rest = [amount for frame, amount in enumerate(shown) if clip.amount(frame) < 0.01]
    assert abs(int(np.argmax(shown)) - clip.peak) <= 1  # a neighbour shows 0.6 % less: encoding is not that exact
    assert shown[clip.peak] > 2 * max(at_rest)


@EVERY_CLIP
def test_the_action_units_tell_the_peak(corpus: DemoCorpus, clip: Clip) -> None:
    found = read_peak(clip.name, [au_directory(corpus, clip)])
    if clip.source is None:
        assert isinstance(found, NoPeak)
    else:
        assert isinstance(found, Peak)
        assert (found.index, found.source) == (clip.peak, clip.source)
    sums = sorted((sum(clip.units(frame).values()), frame) for frame in range(clip.frames))
    assert sums[-1][0] > sums[-2][0], "no frame ties with the peak"
    assert sums[-1][1] == clip.peak


def test_published_mer_factory_text_alone_is_no_peak(corpus: DemoCorpus) -> None:
    (clip,) = (clip for clip in CLIPS if clip.source == "merr_data")
    analysis = au_directory(corpus, clip) / clip.name / f"{clip.name}_au_analysis.json"
    assert "Peak at " in analysis.read_text()
    assert isinstance(read_peak(clip.name, [au_directory(corpus, clip)], "au_info"), NoPeak)
    assert isinstance(read_peak(clip.name, [au_directory(corpus, clip)], "per_frame"), NoPeak)


def test_openface_columns_carry_spaces(corpus: DemoCorpus) -> None:
    (clip,) = (clip for clip in CLIPS if clip.source == "openface")
    header, first = (au_directory(corpus, clip) / f"{clip.name}.csv").read_text().splitlines()[:2]
    assert header.startswith("frame, face_id, timestamp, confidence, success, AU01_r")
    assert header.count(" AU") == 17
    assert first.startswith("1, ")


def test_labels_have_the_form_of_the_datasets(corpus: DemoCorpus) -> None:
    listed = labels(corpus.dataset_root / "mer2023-dataset-process/label-6way.npz", "test1_corpus")
    assert list(listed) == [clip.name for clip in CLIPS if clip.dataset == "mer2023"]
    assert all({"emo", "val"} <= set(label) for label in listed.values())
    whole = labels(corpus.dataset_root / "iemocap-process/label_4way.npz", "whole_corpus")
    fifth = [name for name in whole if name.startswith("Ses05")]
    assert fifth == [clip.name for clip in CLIPS if clip.dataset == "iemocap"]
    assert len(whole) > len(fifth)


def test_a_clip_is_drawn_the_same_every_time_and_another_with_another_seed() -> None:
    first, again, other = (np.stack(list(islice(draw_clip(CLIPS[0], seed), 3))) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_drawing_imports_no_torch() -> None:
    code = "import sys, gpupeak.demo.corpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
