"""Decoding what is needed gives the pixels of a full decode, of every kind of file; broken files give an error."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from av.packet import Packet
from av.video.frame import VideoFrame
from clips import KINDS, decode_in_full, filtered, remux, rotate, with_data, write_clip
from workload import real_clips

from gpupeak.decode import decode_frames
from gpupeak.decode.libav import decode_clip
from gpupeak.decode.nvdec import examine
from gpupeak.errors import SampleError
from gpupeak.video import container
from gpupeak.video.container import Clip, open_clip
from gpupeak.video.orientation import mirrors

ClipOf = Callable[[str], Path]
TURNS = {"h264_rotated_90": 3, "h264_rotated_mkv": 3, "h264_rotated_180": 2, "h264_rotated_270_vfr": 1}


def woven(frame: VideoFrame) -> VideoFrame:
    """A picture of two fields as one."""
    if not frame.interlaced_frame:
        return frame
    whole = VideoFrame.from_ndarray(frame.to_ndarray(), format=frame.format.name)
    whole.colorspace, whole.color_range = frame.colorspace, frame.color_range
    return whole


def native(frame: VideoFrame) -> npt.NDArray[np.uint8]:
    return np.asarray(woven(frame).to_ndarray(format="rgb24"), np.uint8)


def squashed(frame: VideoFrame) -> npt.NDArray[np.uint8]:
    small = woven(frame).reformat(224, 224, "rgb24", interpolation="BILINEAR")
    return np.asarray(small.to_ndarray(), np.uint8)


def choices(frames: int, seed: str, count: int = 10) -> list[list[int]]:
    """Ascending choices of frames: the last, all, and random ones."""
    rng = random.Random(seed)
    some = [sorted(rng.sample(range(frames), min(frames, rng.randint(1, 8)))) for _ in range(count)]
    return [[frames - 1], list(range(frames)), *some]


def assert_as_in_full(path: Path, drawn: list[list[int]], turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = decode_in_full(path)
    expected = {index: np.rot90(native(frames[index]), turns) for indices in drawn for index in indices}
    assert len({picture.tobytes() for picture in expected.values()}) == len(expected), "no frame is like another"
    with open_clip(path) as clip:
        if clip.timed:  # decoding in full would make up for packets that are not enough
            monkeypatch.setattr(clip, "decode_all", None)
        for indices in drawn:
            pixels = decode_clip(clip, indices, size=None)
            assert np.array_equal(pixels, [expected[index] for index in indices]), indices
        small = [np.rot90(squashed(frames[index]), turns) for index in indices]
        assert np.array_equal(decode_clip(clip, indices), small)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_a_full_decode(clip_of: ClipOf, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = choices(len(decode_in_full(clip_of(kind))), kind)
    assert_as_in_full(clip_of(kind), drawn, TURNS.get(kind, 0), monkeypatch)


@pytest.mark.parametrize("name", ["carphone_pristine", "carphone_distorted", "bikes"])
def test_real_clips(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(path for path in real_clips() if path.stem == name)
    with open_clip(path) as clip:
        drawn = choices(clip.frames, name, count=3)[2:]
    assert_as_in_full(path, drawn, 0, monkeypatch)


# What ffmpeg makes of each matrix by itself, with its filters transpose, hflip and vflip.
MATRICES: dict[tuple[int, int, int, int], Callable[[Any], Any]] = {
    (1, 0, 0, 1): lambda picture: picture,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (-1, 0, 0, -1): lambda picture: np.rot90(picture, 2),
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),
    (0, -1, 1, 0): lambda picture: np.rot90(picture, 1),
    (0, 1, 1, 0): lambda picture: picture.swapaxes(0, 1),
    (0, -1, -1, 0): lambda picture: np.flipud(np.rot90(picture, -1)),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_every_display_matrix_is_honoured(clip_of: ClipOf, tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = rotate(clip_of("h264_short_gop"), tmp_path / "clip.mp4", matrix)
    for size in (224, None):
        (plain,), (turned,) = (decode_frames(each, [30], size) for each in (clip_of("h264_short_gop"), path))
        assert np.array_equal(turned, MATRICES[matrix](plain))
    with open_clip(path) as clip:
        assert mirrors(clip.matrix) == (matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0)
        _, given = examine(clip, [30])
        assert (given == "mirrored pictures") == mirrors(clip.matrix), "NVDEC's frames are turned, not mirrored"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize(("codec", "header"), [("libx264", b"\x06"), ("libx265", b"\x4e\1")])
def test_pictures_mirrored_by_the_bitstream(tmp_path: Path, suffix: str, codec: str, header: bytes) -> None:
    # ITU-T H.264, D.1.27, after another message: hor_flip, and in the second anticlockwise_rotation of 16384 of 65536.
    turned: dict[int, Callable[[Any], Any]] = {0x40: np.fliplr, 0x48: lambda picture: np.rot90(np.fliplr(picture))}
    for first, expected in turned.items():
        unit = header + b"\x05\xff\x03" + bytes([1]) * 258 + b"\x2f\x03" + bytes([first]) + b"\x00\x05\x80"
        start = b"\0\0\0\1" if suffix == ".ts" else len(unit).to_bytes(4, "big")

        def oriented(packets: list[Packet[Any]], added: bytes = start + unit) -> list[Packet[Any]]:
            return [with_data(packet, added + bytes(packet)) for packet in packets]

        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        plain = write_clip(tmp_path / f"plain{suffix}", 6, codec=codec, options=options)
        path = remux(plain, tmp_path / f"clip{suffix}", oriented)
        assert np.array_equal(decode_frames(path, [3], None)[0], expected(decode_frames(plain, [3], None)[0]))
        with open_clip(path) as clip:
            assert mirrors(clip.matrix)


@pytest.mark.parametrize("kind", ["h264", "h264_mkv", "h264_ts", "h264_interlaced", "hevc", "hevc_mkv"])
@pytest.mark.parametrize("tags", [(8, 2, 2), (14, 9, 16), (13, 2, 2)])
def test_unknown_colours_are_taken_for_bt601(
    clip_of: ClipOf, tmp_path: Path, kind: str, tags: tuple[int, int, int]
) -> None:
    source, codec = clip_of(kind), kind[:4]
    names = ("matrix_coefficients", "colour_primaries", "transfer_characteristics")  # ITU-T H.273
    told = ":".join(f"{name}={value}" for name, value in zip(names, tags, strict=True))
    path = filtered(source, tmp_path / source.name, f"{codec}_metadata={told}")
    frame = decode_in_full(path)[0]
    assert (frame.colorspace, frame.color_primaries, frame.color_trc) != (2, 2, 2)
    for size in (224, None):
        assert np.array_equal(decode_frames(path, [5], size), decode_frames(source, [5], size))


@pytest.mark.parametrize("tags", [(2, 2, 3), (2, 2, 0), (2, 3, 2), (3, 2, 2), (200, 200, 200)])
def test_reserved_colours_are_taken_for_bt601(clip_of: ClipOf, tmp_path: Path, tags: tuple[int, int, int]) -> None:
    data = bytearray(clip_of("vp9_odd").read_bytes())
    matrix, primaries, transfer = tags
    at = data.index(b"vpcC") + 11  # after version, flags, profile, level and depth
    data[at : at + 3] = bytes([primaries, transfer, matrix])
    (path := tmp_path / "clip.mp4").write_bytes(data)
    assert np.array_equal(decode_frames(path, [5]), decode_frames(clip_of("vp9_odd"), [5]))


def test_indices_may_repeat_and_come_in_any_order(clip_of: ClipOf) -> None:
    every = decode_frames(clip_of("h264_open_gop"), range(48))
    indices = [30, 2, 2, 47, 30, 2]
    assert np.array_equal(decode_frames(clip_of("h264_open_gop"), indices), every[indices])
    assert decode_frames(clip_of("h264_one_frame"), [0] * 8).shape == (8, 224, 224, 3)
    assert decode_frames(clip_of("h264"), []).shape == (0, 224, 224, 3)
    assert decode_frames(clip_of("h264"), [], None).shape[0] == 0


def test_large_files_are_read_twice(clip_of: ClipOf, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = decode_frames(clip_of("h264_short_gop"), [3, 20, 21, 47])
    raw = decode_frames(clip_of("h264_raw"), [3, 20])
    monkeypatch.setattr(container, "KEPT_BYTES", 1000)
    assert np.array_equal(decode_frames(clip_of("h264_short_gop"), [3, 20, 21, 47]), expected)
    assert np.array_equal(decode_frames(clip_of("h264_raw"), [3, 20]), raw)
    with open_clip(clip_of("h264_short_gop")) as clip:
        assert len(list(clip.read([12, 20]))) == 2


def fails(path: Path, indices: list[int]) -> str:
    with pytest.raises(SampleError) as caught:
        decode_frames(path, indices)
    assert caught.value.stage == "decode"
    return caught.value.reason


def test_frames_that_are_not_there(clip_of: ClipOf) -> None:
    assert fails(clip_of("h264"), [3, 48]) == "frame 48 planned, video has 48"
    assert fails(clip_of("h264"), [-1]) == "frame -1 planned, video has 48"


def test_too_few_packets_are_made_up_for(clip_of: ClipOf, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = decode_frames(clip_of("h264_short_gop"), [5, 30])
    for runs in ([[3, 4], [25]], [[0, 1]], []):
        monkeypatch.setattr(Clip, "runs", lambda self, indices, runs=runs: runs)
        assert np.array_equal(decode_frames(clip_of("h264_short_gop"), [5, 30]), expected)


def test_frames_that_cannot_be_decoded_are_none(clip_of: ClipOf, tmp_path: Path) -> None:
    with open_clip(clip_of("h264_short_gop")) as clip:
        spoilt = [bytes(packet) for packet in clip.read(range(24, 48))]
    data = clip_of("h264_short_gop").read_bytes()
    for packet in spoilt:
        # The slice's length and header stay, so that the packet still counts as a frame.
        data = data.replace(packet, packet[:6] + b"\xff" * (len(packet) - 6))
    path = tmp_path / "spoilt.mp4"
    path.write_bytes(data)
    assert decode_frames(path, [0, 23]).shape == (2, 224, 224, 3)
    frames = len(decode_in_full(path))
    assert 24 <= frames < 30
    assert fails(path, [3, 30, 40]) == f"frame 30 planned, video has {frames}"


def test_damage_is_concealed_as_in_a_full_decode(tmp_path: Path) -> None:
    """It is concealed with the frames before it, among them those that need not be decoded."""
    whole = write_clip(tmp_path / "whole.mp4", options={"g": "12", "threads": "1"})
    with open_clip(whole) as clip:
        packets = [bytes(packet) for packet in clip.read(range(48))]
    path = tmp_path / "damaged.mp4"
    for number in (12, 36, 40, 42):
        packet, rng = packets[number], random.Random(0)
        half = len(packet) // 2
        damage = bytes(rng.randrange(1, 256) for _ in range(len(packet) - half))
        path.write_bytes(whole.read_bytes().replace(packet, packet[:half] + damage))
        frames = {frame.pts: frame for frame in decode_in_full(path)}
        with open_clip(path) as clip:
            for index in range(number, 48):
                if clip.pts(index) in frames:
                    expected = native(frames[clip.pts(index)])
                    assert np.array_equal(decode_clip(clip, [index], None)[0], expected), (number, index)
                else:
                    with pytest.raises(SampleError, match="cannot be decoded"):
                        decode_clip(clip, [index])


def joined(directory: Path) -> Path:
    """A raw stream of six frames of 96x64 and six of 128x64."""
    parts = [write_clip(directory / f"{width}.h264", 6, (width, 64)) for width in (96, 128)]
    path = directory / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def test_frames_of_another_size(tmp_path: Path) -> None:
    path = joined(tmp_path)
    assert decode_frames(path, [2, 8]).shape == (2, 224, 224, 3)
    with pytest.raises(SampleError, match="frame 8 is 128x64, unlike the frames before it"):
        decode_frames(path, [2, 8], size=None)


def test_pictures_larger_than_the_limit_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the header says: here some frames are larger."""
    path = joined(tmp_path)
    with open_clip(path) as clip:
        assert clip.frames == 12
    monkeypatch.setattr(container, "MAX_PIXELS", 96 * 64)
    with pytest.raises(SampleError, match="none of its 12 video packets can be decoded"):
        open_clip(path)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"vp9_odd"}))
def test_damaged_files_give_frames_or_an_error(
    clip_of: ClipOf, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = clip_of(kind).read_bytes()
    path = tmp_path / clip_of(kind).name
    capfd.readouterr()
    rng = random.Random(kind)
    for _ in range(6):
        data = bytearray(whole)
        near = rng.choice((len(data), min(len(data), 1500)))
        for _ in range(rng.choice((1, 5, 40))):
            data[rng.randrange(near)] = rng.randrange(256)
        path.write_bytes(data)
        try:
            with open_clip(path) as clip:
                indices = sorted(rng.sample(range(clip.frames), min(8, clip.frames)))
                assert decode_clip(clip, indices).shape == (len(indices), 224, 224, 3)
                assert clip.rotation in (0, 90, 180, 270)
        except SampleError as error:
            assert error.stage in ("plan", "decode")
            assert "\n" not in error.reason
    assert capfd.readouterr() == ("", ""), "libav says nothing on the terminal"
