"""Where decoding delivers other frames than the packets tell, these are counted, and planned anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from av.packet import Packet
from clips import decode_in_full, hidden_vp9, remux, superframe, with_data, write_clip
from samples import sample

from gpupeak.decode import decode_frames
from gpupeak.decode.libav import Recounted, decode_clip
from gpupeak.decode.nvdec import examine
from gpupeak.decode.worker import prepare
from gpupeak.features.records import ManifestLine, line_of
from gpupeak.types import FramePlan, Saved
from gpupeak.video.bitstream import Syntax
from gpupeak.video.container import open_clip
from gpupeak.video.remake import NO_FRAMES, UNTIMED

ClipOf = Callable[[str], Path]
Packets: TypeAlias = "list[Packet[Any]]"
HEVC = {"x265-params": "log-level=none:keyint=24"}


def spoilt(packets: Packets, number: int = 10, kept: int = 2) -> Packets:
    data = bytes(packets[number])
    noise = random.Random(0).randbytes(len(data) - kept)
    return [*packets[:number], with_data(packets[number], data[:kept] + noise), *packets[number + 1 :]]


def lost(packets: Packets) -> Packets:
    return packets[:5] + packets[9:]


DAMAGED: dict[str, tuple[str, dict[str, str], Callable[[Packets], Packets]]] = {
    "hevc_spoilt.mp4": ("libx265", HEVC, spoilt),
    "hevc_lost.mp4": ("libx265", HEVC, lost),
    "hevc_lost.mkv": ("libx265", HEVC, lost),
    "vp9_spoilt.webm": ("libvpx-vp9", {"g": "24"}, spoilt),
    "vp9_spoilt.mp4": ("libvpx-vp9", {"g": "24"}, partial(spoilt, number=26, kept=12)),
    "vp8_spoilt.webm": ("libvpx", {"g": "24"}, spoilt),
}


def assert_as_in_full(path: Path, directory: Path) -> FramePlan:
    """Eight frames are numbered and have the pixels as in a full decode."""
    frames = decode_in_full(path)
    answer = prepare(sample(directory, video=path), out := np.empty((8, 224, 224, 3), np.uint8))
    assert isinstance(answer, tuple)
    plan, _ = answer
    assert plan.frames == len(frames)
    squashed = (frames[index].reformat(224, 224, "rgb24", interpolation="BILINEAR") for index in plan.indices)
    expected = [picture.to_ndarray() for picture in squashed]
    assert np.array_equal(out, expected)
    assert np.array_equal(decode_frames(path, plan.indices), expected)
    return plan


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_that_only_decoding_shows(tmp_path: Path, name: str) -> None:
    codec, options, change = DAMAGED[name]
    whole = write_clip(tmp_path / f"whole_{name}", codec=codec, options=options)
    path = remux(whole, tmp_path / name, change)
    plan = assert_as_in_full(path, tmp_path)
    assert plan.recounted
    assert plan.indices[-1] < plan.frames < 48
    with open_clip(path) as clip:
        assert (clip.timed, clip.recounted) == (True, False)
        with pytest.raises(Recounted, match=f"delivers {plan.frames} frames, its packets tell {clip.frames}"):
            decode_clip(clip, range(clip.frames))
        assert examine(clip, [30])[1] == UNTIMED
    read = ManifestLine.read(line_of(Saved(plan, {})))
    assert read is not None
    assert (read.recounted, read.frames) == (True, plan.frames)


@pytest.mark.parametrize("kind", ["h264_grows_ts", "hevc_bla", "hevc_not_put_out", "av1_joined"])
def test_packets_that_cast_doubt(clip_of: ClipOf, tmp_path: Path, kind: str) -> None:
    assert assert_as_in_full(clip_of(kind), tmp_path).recounted


@pytest.mark.parametrize(("suffix", "two"), [(".webm", False), (".mp4", True), (".mkv", True), (".ivf", False)])
def test_vp9_hidden_shown_again_and_two_in_a_packet(clip_of: ClipOf, tmp_path: Path, suffix: str, two: bool) -> None:
    def change(packets: Packets) -> Packets:
        data = list(map(bytes, packets))
        data[5], data[9] = hidden_vp9(data[5]), superframe(hidden_vp9(data[8]), data[9])
        data[37] = b"\x88"  # show_existing_frame 0
        data[23] = superframe(data[22] if two else hidden_vp9(data[22]), data[23])
        return [with_data(packet, data[n]) for n, packet in enumerate(packets) if n not in (8, 22)]

    path = remux(clip_of("vp9"), tmp_path / f"changed{suffix}", change)
    plan = assert_as_in_full(path, tmp_path)
    assert (plan.frames, plan.recounted) == (46 if two else 45, two)
    with open_clip(path) as clip:
        for index in () if two else (4, 5, 20, 35):  # before and behind the first change of each of the three GOPs
            given = examine(clip, [index])[1]
            assert (given == NO_FRAMES) == (index != 4), "NVDEC would number them otherwise"


def test_hevc_after_the_end_of_a_sequence() -> None:
    def unit(kind: int) -> bytes:
        return b"\0\0\1" + bytes([kind << 1, 1]) + b"\x80"

    syntax = Syntax("hevc", b"")
    for data in (unit(21), unit(8), unit(1), unit(21)):  # CRA, RASL_N, TRAIL_R
        syntax.read(memoryview(data), False)
    assert not syntax.doubtful
    for data in (unit(1) + b"\0\0\1\x48\1", unit(21)):
        syntax.read(memoryview(data), False)
    assert syntax.doubtful


def test_a_picture_cut_short_does_not_depend_on_the_others_wanted(tmp_path: Path) -> None:
    """The decoder says nothing of it, and leaves what it lacks as it was in memory."""

    def shorten(packets: Packets) -> Packets:
        return [
            with_data(packet, bytes(packet)[: packet.size // 2]) if number in (9, 20) else packet
            for number, packet in enumerate(packets)
        ]

    whole = write_clip(tmp_path / "whole.avi", 30, codec="mjpeg", pix_fmt="yuvj420p")
    for suffix in (".avi", ".mkv", ".mov"):
        path = remux(whole, tmp_path / f"cut{suffix}", shorten)
        every = decode_frames(path, range(30))
        for indices in ([9], [20], [3, 9], [0, 20], [9, 20, 25], [8, 9, 19, 20]):
            assert np.array_equal(decode_frames(path, indices), every[indices]), indices
        with open_clip(path) as clip, open_clip(whole) as plain:
            assert clip.needed([20]) == list(range(21))
            assert plain.needed([20]) == [20]
