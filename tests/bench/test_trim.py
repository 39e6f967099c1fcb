"""A trimmed video has fewer packets, and of its frames those that were wanted are the whole one's, bit for bit."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from clips import KINDS, write_clip
from samples import sample

from gpupeak.decode import dali, decode_frames
from gpupeak.decode.libav import decode_clip
from gpupeak.decode.worker import Planned, prepare
from gpupeak.types import FrameBatch, Sample
from gpupeak.video import container
from gpupeak.video.container import open_clip, quarter_turns

trim: Any = importlib.import_module("trim")

ClipOf = Callable[[str], Path]
TAKEN = [kind for kind in KINDS if kind.startswith(("h264", "hevc", "vp", "mpeg4"))]
NOT_ONE_BY_ONE = {"h264_avi", "h264_raw", "mpeg4_avi_packed", "mpeg4_cut"}  # not timed
NOT_ONE_BY_ONE |= {"h264_edit_list", "h264_edit_list_open_gop", "vp8_hidden"}  # discarded and hidden packets
NOT_ONE_BY_ONE |= {"h264_cut", "h264_cut_open_gop", "h264_cut_ts", "vp8_cut", "mpeg4_cut_avi"}  # begin within a GOP


def every_frame(data: bytes) -> list[npt.NDArray[np.uint8]]:
    """What a decoder delivers that is given the packets one after another."""
    with av.open(io.BytesIO(data), "r") as video:
        video.streams.video[0].codec_context.thread_count = 1
        frames = list(video.decode(video=0))
    return [np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns(frame)) for frame in frames]


@pytest.mark.parametrize("kind", TAKEN)
def test_the_frames_are_those_of_the_whole_video(clip_of: ClipOf, kind: str) -> None:
    random = np.random.default_rng(0)
    with open_clip(clip_of(kind)) as clip:
        last = clip.frames - 1
        drawn = [sorted(random.choice(clip.frames, min(n, clip.frames), replace=False).tolist()) for n in (8, 2, 2)]
        for indices in (*drawn, [0], [last], [last, 0, last]):
            made = trim.trimmed(clip, indices)
            assert (made is None) == (kind in NOT_ONE_BY_ONE)
            if made is None:
                continue
            frames = every_frame(made.data)
            assert len(frames) == made.packets <= clip.packets
            found = np.stack([frames[ordinal] for ordinal in made.ordinals])
            np.testing.assert_array_equal(found, decode_frames(clip_of(kind), indices, None))
        # What was copied out of the clip is still in it.
        np.testing.assert_array_equal(decode_clip(clip, drawn[0]), decode_frames(clip_of(kind), drawn[0]))


def test_nothing_is_left_that_no_wanted_frame_needs(clip_of: ClipOf) -> None:
    for kind, indices in (("h264_short_gop", [13, 40]), ("h264_pyramid", [5, 30]), ("vp9", [17, 18, 47])):
        with open_clip(clip_of(kind)) as clip:
            made = trim.trimmed(clip, indices)
            assert made.packets == len(clip.needed(indices)) < clip.packets
            assert len(made.data) < clip_of(kind).stat().st_size


def test_an_open_gop_is_entered_through_those_before_it(clip_of: ClipOf) -> None:
    for kind in ("h264_open_gop", "hevc"):
        with open_clip(clip_of(kind)) as clip:
            last = clip.needed([clip.frames - 1])[-1]
            assert len(clip.needed([clip.frames - 1])) < 30
            assert trim.trimmed(clip, [clip.frames - 1]).packets == last + 1


@pytest.mark.parametrize("kind", ["av1", "wmv2", "mjpeg_avi", "mpeg2_ts"])
def test_what_nvdec_is_not_given_is_not_trimmed(clip_of: ClipOf, tmp_path: Path, kind: str) -> None:
    with open_clip(clip_of(kind)) as clip:
        assert trim.trimmed(clip, [0]) is None
    assert trim.trimming(sample(tmp_path, video=clip_of(kind))) is None


def test_a_video_too_large_to_be_kept_is_read_again(clip_of: ClipOf, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_clip(clip_of("h264_short_gop")) as clip:
        kept = trim.trimmed(clip, [3, 20, 45])
    monkeypatch.setattr(container, "KEPT_BYTES", 0)
    with open_clip(clip_of("h264_short_gop")) as clip:
        read = trim.trimmed(clip, [3, 20, 45])
    assert read.ordinals == kept.ordinals
    for one, other in zip(every_frame(read.data), every_frame(kept.data), strict=True):
        np.testing.assert_array_equal(one, other)


def test_parameters_that_change_outside_of_the_packets(clip_of: ClipOf, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_clip(clip_of("h264")) as clip:
        packets = clip.read

        def changing(numbers: list[int]) -> list[SimpleNamespace]:  # PyAV makes no packets that change parameters
            told = {"has_sidedata": "new_extradata".__eq__}
            return [SimpleNamespace(pts=packet.pts, **told) for packet in packets(numbers)]

        monkeypatch.setattr(trim, "_joined", lambda clip, indices: clip.needed(indices))
        monkeypatch.setattr(clip, "read", changing)
        assert trim.trimmed(clip, [3]) is None


def planned_of(each: Sample) -> tuple[int, ...]:
    answer = prepare(each, None)
    assert isinstance(answer, Planned)
    return answer.plan.unique


def squashed(clips: list[Sample], monkeypatch: pytest.MonkeyPatch, given: Any) -> dict[str, npt.NDArray[np.uint8]]:
    class Here:
        def plan(self, samples: Any) -> Any:
            return (prepare(each, None) for each in samples)

        def close(self) -> None: ...

    monkeypatch.setattr(dali, "encoded", given)
    decoder = dali.DaliDecoder(8, 224, Here(), torch.device("cpu"), pipelines=1, threads=1)  # type: ignore[arg-type]
    found = {}
    with contextlib.closing(decoder):
        for batch in decoder.decode(clips):
            assert isinstance(batch, FrameBatch)
            for plan, (start, stop) in zip(batch.plans, batch.spans, strict=True):
                found[plan.sample.name] = np.array(batch.pixels[start:stop])
    return found


def test_dali_decodes_the_same_frames_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"g": "12", "deadline": "realtime", "cpu-used": "8"}
    videos = [
        write_clip(tmp_path / f"{name}", frames, (320, 240), "libvpx-vp9", options=options, seed=frames)
        for name, frames in (("a.webm", 40), ("b.mp4", 25), ("c.mkv", 5))
    ]
    # From one wanted frame to the next, DALI goes on decoding, or seeks: the next is 12 frames on, in another GOP.
    videos.append(write_clip(tmp_path / "sought.mp4", 70, (320, 240), "libvpx-vp9", options={**options, "g": "23"}))
    every = zip(videos, (3, 8, 8, 2), strict=True)
    samples = [sample(tmp_path, video.name, n=n, video=video) for video, n in every]
    both = {each.name: trim.trimming(each) for each in samples}
    assert planned_of(samples[0]) == (0, 13, 26), "in GOPs of 12: 1, 2 and 3 frames of them"
    assert (both["a.webm"].packets, both["a.webm"].decoded) == (40, (6, 6))
    assert (planned_of(samples[3]), both["sought.mp4"].trimmed.frames) == ((0, 35), (0, 13))
    assert len(both["a.webm"].trimmed.file) < len(both["a.webm"].whole.file)
    whole = squashed(samples, monkeypatch, lambda planned: both[planned.plan.sample.name].whole)
    trimmed = squashed(samples, monkeypatch, lambda planned: both[planned.plan.sample.name].trimmed)
    assert whole.keys() == trimmed.keys() == both.keys()
    for each in samples:
        np.testing.assert_array_equal(trimmed[each.name], whole[each.name])


def made(packets: int, decoded: tuple[int, int], sizes: tuple[int, int], seconds: float) -> Any:
    whole, trimmed = (dali.Encoded(np.zeros(size, np.uint8), (0,)) for size in sizes)
    return trim.Trimming(whole, trimmed, packets, decoded, seconds)


@pytest.mark.parametrize(
    ("trimmed", "wins"), [((0.9, 1.8), "trimmed"), ((1.1, 2.2), "whole"), ((0.9, 2.1), "neither"), ((1, 2), "neither")]
)
def test_the_verdict_is_about_every_round(trimmed: tuple[float, ...], wins: str) -> None:
    videos = [made(100, (80, 40), (1000, 400), 0.002), made(100, (40, 40), (1000, 600), 0.004)]
    row = trim.verdict(videos, {"whole": [1.0, 2.0], "trimmed": trimmed})
    assert row["wins"] == wins
    assert row["says"].startswith(f"{wins} wins")
    assert row["samples_per_s"]["whole"] == pytest.approx(2 / 1.5)
    assert (row["bytes_left"], row["packets_left"], row["trim_s"]) == pytest.approx((0.5, 0.4, 0.003))
    assert row["decoded_a_sample"] == {"whole": 60, "trimmed": 40}
    assert row["left_whole"] == 0
