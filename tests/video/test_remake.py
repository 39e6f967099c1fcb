"""A video made anew has fewer packets, and of its frames those that were wanted are the whole one's, bit for bit."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.video.frame import VideoFrame
from clips import KINDS, Packets, decode_in_full, parameter_set, remux, with_data, write_clip

from gpupeak.errors import SampleError
from gpupeak.sampling import choose
from gpupeak.types import Peak, SamplingRule
from gpupeak.video import remake as remaking
from gpupeak.video.container import open_clip
from gpupeak.video.nal import read_cropping, uncropped
from gpupeak.video.remake import CHANGING, NO_FRAMES, UNTIMED, Remade, Unsafe, remake

ClipOf = Callable[[str], Path]
OTHERS = {"h264_444", "h264_full_range"}  # in formats that NVDEC is not given
TAKEN = [kind for kind in KINDS if kind.startswith(("h264", "hevc", "vp", "mpeg4")) and kind not in OTHERS]
NO_IDR = "no IDR picture or key frame to start at"
REFUSED = dict.fromkeys(("h264_avi", "h264_raw", "mpeg4_avi_packed", "mpeg4_cut"), UNTIMED)
REFUSED |= dict.fromkeys(("h264_grows_ts", "h264_grows_mkv", "h264_grows_flv"), UNTIMED)
REFUSED |= dict.fromkeys(("hevc_bla", "hevc_bla_ts", "hevc_no_output", "hevc_not_put_out"), UNTIMED)
REFUSED |= dict.fromkeys(("h264_edit_list_open_gop", "h264_cut_open_gop"), NO_IDR)
SOMETIMES = {"h264_two_encoders": CHANGING, "vp8_hidden": NO_FRAMES, "mpeg4_cut_avi": NO_FRAMES}
"""Refused for some frames: those after the change, after a hidden picture, before the first key frame."""


def every_frame(data: bytes) -> dict[int | None, VideoFrame]:
    """What a decoder delivers that is given the packets one after another, by their numbers in display order."""
    # A decoder that does not guess how many pictures have to wait: what is not told by a file, DALI knows by itself.
    with av.open(io.BytesIO(data), "r", options={"strict": "1"}) as video:
        video.streams.video[0].codec_context.thread_count = 1
        return {frame.pts: frame for frame in video.decode(video=0)}


def planes(frame: VideoFrame, size: tuple[int, int]) -> list[npt.NDArray[np.uint8]]:
    """The top left of a picture of 4:2:0, as it was coded."""
    found = []
    for number, plane in enumerate(frame.planes):
        sample = 2 if frame.format.name.endswith("10le") else 1
        width, height = size if number == 0 else (-(-size[0] // 2), -(-size[1] // 2))
        rows = np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)
        found.append(rows[:height, : width * sample])
    return found


def assert_same(one: VideoFrame, other: VideoFrame, size: tuple[int, int]) -> None:
    for ours, theirs in zip(planes(one, size), planes(other, size), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def assert_decoded_as_the_whole(made: Remade, whole: list[VideoFrame], indices: list[int]) -> None:
    frames = every_frame(made.data)
    for ordinal, index in zip(made.ordinals, indices, strict=True):
        frame, wanted = frames[ordinal], whole[index]
        assert (frame.width, frame.height) == made.coded
        assert (wanted.width, wanted.height) == made.shown
        assert_same(frame, wanted, made.shown)
    # libav takes a BLA picture for one of the few before it if they have one number; NVDEC need not.
    if len(frames) == made.pictures or made.pictures > 6:
        assert frames.keys() == set(range(made.pictures))
        assert_same(frames[0], frames[made.pictures - 1], made.coded)


def drawn(frames: int) -> list[list[int]]:
    choice = np.random.default_rng(0).choice
    several = [sorted(choice(frames, min(n, frames), replace=False).tolist()) for n in (8, 8, 2, 2, 2)]
    return [*several, [0], [frames // 2], [frames - 1]]


@pytest.mark.parametrize("kind", TAKEN)
def test_the_frames_are_those_of_the_whole_video(clip_of: ClipOf, kind: str) -> None:
    whole, made = decode_in_full(clip_of(kind)), 0
    with open_clip(clip_of(kind)) as clip:
        for indices in drawn(clip.frames):
            try:
                found = remake(clip, indices)
            except Unsafe as refused:
                assert str(refused) == {**REFUSED, **SOMETIMES}[kind]
                continue
            made += 1
            assert found.pictures <= len(clip.gops.pts) + 1
            assert_decoded_as_the_whole(found, whole, indices)
    assert (made == 0) == (kind in REFUSED)


@pytest.mark.parametrize(
    ("name", "codec", "size", "coded", "options"),
    [
        ("h264.mp4", "libx264", (672, 378), (672, 384), {}),
        ("interlaced.mp4", "libx264", (120, 92), (128, 96), {"x264-params": "interlaced=1"}),
        ("h264.ts", "libx264", (90, 62), (96, 64), {"g": "12"}),
        ("hevc.mkv", "libx265", (150, 146), (152, 152), {"x265-params": "log-level=none:keyint=12"}),
        ("mpeg4.mp4", "mpeg4", (90, 62), (96, 64), {"bf": "2"}),
        ("mpeg4.avi", "mpeg4", (95, 63), (96, 64), {}),
        ("vp8.webm", "libvpx", (95, 63), (96, 64), {"g": "12"}),
        ("vp9.webm", "libvpx-vp9", (90, 62), (90, 62), {"g": "12", "auto-alt-ref": "0", "cpu-used": "8"}),
    ],
)
def test_pictures_have_their_coded_size(
    tmp_path: Path, name: str, codec: str, size: tuple[int, int], coded: tuple[int, int], options: dict[str, str]
) -> None:
    path = write_clip(tmp_path / name, 26, size, codec, options=options)
    with open_clip(path) as clip:
        made = remake(clip, [3, 14, 25])
    assert (made.coded, made.shown) == (coded, size)
    assert_decoded_as_the_whole(made, decode_in_full(path), [3, 14, 25])


# As the clips of the corpora are coded: one key frame, up to two pictures that wait for one presented before.
_ONE_GOP = {"g": "250", "x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0"}


@pytest.mark.parametrize(
    ("codec", "frames", "options", "limit"),
    [
        ("libx264", 150, _ONE_GOP, 0.60),
        ("libx264", 96, _ONE_GOP, 0.60),
        ("mpeg4", 120, {"g": "12"}, 0.30),
    ],
)
def test_how_many_pictures_are_decoded(
    tmp_path: Path, codec: str, frames: int, options: dict[str, str], limit: float
) -> None:
    """Beside all from the first to the last wanted one, which is what DALI decodes of a whole video."""
    path = write_clip(tmp_path / ("clip.avi" if codec == "mpeg4" else "clip.mp4"), frames, codec=codec, options=options)
    counts, linear = [], []
    with open_clip(path) as clip:
        for peak in range(5, frames, 10):
            found = Peak(peak, peak, frames - 1 - peak, frames, "drawn", path)
            indices = choose(SamplingRule("emotion_peak", 8), "clip", frames, found).indices
            counts.append(remake(clip, indices).pictures)
            linear.append(indices[-1] + 1)
    assert sum(counts) <= limit * sum(linear), f"{np.mean(counts)} of {np.mean(linear)} pictures"


def test_an_open_gop_is_entered_through_those_before_it(clip_of: ClipOf) -> None:
    with open_clip(clip_of("h264_open_gop")) as clip:
        last = clip.frames - 1
        kept = [number for number in range(clip.needed([last])[-1] + 1) if not clip.gops.droppable[number]]
        assert remake(clip, [last]).pictures == len(set(kept) | {clip.needed([last])[-1]}) + 1
    with open_clip(clip_of("hevc")) as clip:
        assert remake(clip, [clip.frames - 1]).pictures == len(clip.needed([clip.frames - 1])) + 1


def test_a_video_too_large_to_be_held_is_refused(clip_of: ClipOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remaking, "MAX_BYTES", 1 << 10)
    with open_clip(clip_of("h264_short_gop")) as clip, pytest.raises(Unsafe, match="larger than 0 MiB"):
        remake(clip, [3, 20, 45])


def test_an_mp4_that_says_another_size(clip_of: ClipOf, tmp_path: Path) -> None:
    """libav takes it for the part that is shown if it lies in the same blocks, else the bitstream's."""
    data = clip_of("h264_cropped").read_bytes()
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    for size, shown in (((86, 60), (86, 60)), ((60, 40), (90, 62)), ((96, 64), (90, 62))):
        path = tmp_path / f"{size[0]}.mp4"
        path.write_bytes(data[:at] + struct.pack(">HH", *size) + data[at + 4 :])
        with open_clip(path) as clip:
            made = remake(clip, [20])
        assert made.shown == shown
        assert_decoded_as_the_whole(made, decode_in_full(path), [20])


@pytest.mark.parametrize("kind", ["h264_cropped", "hevc"])
def test_a_sequence_parameter_set_without_its_cropping(clip_of: ClipOf, kind: str) -> None:
    unit, header = parameter_set(clip_of(kind)), 2 if kind == "hevc" else 1
    cropping = read_cropping(unit, kind == "hevc")
    changed = read_cropping(uncropped(unit, header, cropping), kind == "hevc")
    assert changed == cropping._replace(right=0, bottom=0, stop=cropping.start + 1)
    # Bit for bit what it was after that, whatever it is, and no start code in it.
    for fill in range(256):
        odd = unit + bytes([0, 0, 3, 1, 0, 0, 3, fill, 0x80])
        shorter = uncropped(odd, header, cropping)
        assert not any(code in shorter for code in (b"\0\0\0", b"\0\0\1", b"\0\0\2"))
        after = ((odd, cropping.stop), (shorter, cropping.start + 1))
        assert len({bits(each[header:])[start:].rstrip("0") for each, start in after}) == 1


def bits(payload: bytes) -> str:
    payload = payload.replace(b"\0\0\3", b"\0\0")
    return f"{int.from_bytes(payload, 'big'):0{8 * len(payload)}b}"


@pytest.mark.parametrize("kind", ["h264_cropped", "hevc"])
def test_damaged_parameter_sets_are_read_or_not_in_no_time(clip_of: ClipOf, kind: str) -> None:
    unit, header = parameter_set(clip_of(kind)), 2 if kind == "hevc" else 1
    draw, read = random.Random(0), 0
    for _ in range(3000):
        damaged = bytearray(unit[: draw.randint(header, len(unit))])
        for _ in range(draw.randint(0, 4)):
            damaged[draw.randrange(len(damaged))] = draw.choice((0, 1, 3, 0xFF, draw.randrange(256)))
        with suppress(ValueError):
            cropping = read_cropping(bytes(damaged), kind == "hevc")
            again = read_cropping(uncropped(bytes(damaged), header, cropping), kind == "hevc")
            assert again[:6] == (cropping.width, cropping.height, 0, 0, 0, 0)
            read += 1
    assert read > 300, "most damage is not where the size is told"


def damaged(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 2, 8))):
        at = min(draw.choice((draw.randrange(64), draw.randrange(len(data)))), len(data) - 1)
        changed[at : at + draw.choice((1, 1, 4))] = draw.choice((b"\0", b"\xff", b"\0\0\1", draw.randbytes(2)))
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["h264_cropped", "h264_ts", "hevc_mkv", "mpeg4_avi_b", "mpeg4_mp4", "vp8", "vp9_odd"])
def test_damaged_packets_are_refused_in_one_line_or_made_anew(clip_of: ClipOf, tmp_path: Path, kind: str) -> None:
    draw = random.Random(kind)
    made, refused = 0, set[str]()
    for number in range(150):
        path = tmp_path / f"{number}{clip_of(kind).suffix}"

        def damage(packets: Packets) -> Packets:
            hit = (draw.random() < 0.1 for _ in packets)
            return [with_data(p, damaged(bytes(p), draw)) if h else p for p, h in zip(packets, hit, strict=True)]

        with suppress(av.FFmpegError):  # not every muxer writes everything
            remux(clip_of(kind), path, damage)
        try:
            with open_clip(path) as clip:
                clip.decoder.extradata = damaged(clip.decoder.extradata or bytes(8), draw)
                found = remake(clip, drawn(clip.frames)[number % 5])
            made += 1
            assert len(found.data) < 2 * path.stat().st_size + (1 << 16)
            with av.open(io.BytesIO(found.data), "r") as video:
                assert len([packet for packet in video.demux(video=0) if packet.size]) == found.pictures
        except (Unsafe, SampleError) as error:
            refused.add(str(error))
    assert made
    assert not any("\n" in reason for reason in refused)
