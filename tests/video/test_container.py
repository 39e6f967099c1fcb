"""Frames are counted as a full decode delivers them, and the packets that decoding takes are few and enough."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from av.stream import Disposition
from av.video.stream import VideoStream
from clips import KINDS, decode_in_full, filtered, parameter_set, remux, write_audio, write_clip

from gpupeak.errors import SampleError
from gpupeak.video import container
from gpupeak.video.bitstream import Syntax
from gpupeak.video.container import Clip, open_clip
from gpupeak.video.headers import read_headers
from gpupeak.video.nal import read_sequence, slice_type

ClipOf = Callable[[str], Path]
TELLING = (".mp4", ".mov", ".mkv", ".avi")
FEWER = {"h264_grows_ts", "h264_grows_mkv", "h264_grows_flv", "hevc_bla", "hevc_bla_ts", "hevc_not_put_out"}
RECOUNTED = {*FEWER, "hevc_no_output", "av1_joined"}
UNTIMED = {"h264_avi", "h264_raw", "mpeg4_avi_packed", "mpeg4_cut", "wmv2", "flv1", "ffv1"} | RECOUNTED


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_which_way_up_they_are_as_in_a_full_decode(
    clip_of: ClipOf, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = decode_in_full(clip_of(kind))
    with open_clip(clip_of(kind)) as clip:
        assert clip.frames == len(frames) > 0
        assert clip.timed == (kind not in UNTIMED)
        assert clip.recounted == (kind in RECOUNTED)
        assert clip.frames < clip.packets or kind not in FEWER
        assert clip.key_frames == sorted(clip.key_frames)
        if clip.timed:
            assert [clip.pts(index) for index in range(clip.frames)] == [frame.pts for frame in frames]
        if frames[0].rotation == 0 and (kind == "h264_mkv" or KINDS[kind][0] in (".mp4", ".mov", ".avi", ".webm")):
            monkeypatch.setattr(container, "decoded", None)  # common headers say it
        assert clip.rotation == frames[0].rotation % 360


@pytest.mark.parametrize("kind", [kind for kind, (suffix, _) in KINDS.items() if suffix in TELLING])
def test_the_quick_look_at_a_header_misses_nothing(clip_of: ClipOf, tmp_path: Path, kind: str) -> None:
    other = Path(shutil.copy(clip_of(kind), tmp_path / "clip.video"))
    with open_clip(clip_of(kind)) as quick, open_clip(other) as full:
        for name in (
            *("codec", "width", "height", "pix_fmt", "colorspace", "color_range", "fps"),
            *("packets", "frames", "key_frames", "timed", "times", "rotation"),
        ):
            assert getattr(quick, name) == getattr(full, name), name
        every = range(quick.frames)
        assert [quick.runs([index]) for index in every] == [full.runs([index]) for index in every]


def test_what_a_clip_says_of_itself(clip_of: ClipOf) -> None:
    with open_clip(clip_of("h264_bt709")) as clip:
        assert (clip.codec, clip.width, clip.height, clip.fps) == ("h264", 96, 64, 25.0)
        assert (clip.colorspace, clip.packets, clip.frames, clip.key_frames) == (1, 48, 48, [0])
        assert clip.times == pytest.approx([number / 25 for number in range(48)])
    with open_clip(clip_of("h264_intra_refresh")) as clip:
        assert clip.key_frames == [0], "the others refer to what came before them"
    with open_clip(clip_of("h264_vfr")) as clip:
        assert clip.times[:8] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.28, 0.32, 0.56])
    with open_clip(clip_of("h264_avi")) as clip:
        assert clip.times == pytest.approx([number / 25 for number in range(48)])


def test_frames_that_the_edit_list_cuts_are_none(clip_of: ClipOf) -> None:
    with open_clip(clip_of("h264_edit_list")) as clip:
        assert (clip.packets, clip.frames) == (36, 31), "of the GOP at the cut, 5 packets are there for the others"
        assert clip.key_frames == [7, 19]
        assert clip.needed([0])[0] == 0


def test_mp4s_that_leave_it_open(clip_of: ClipOf, tmp_path: Path) -> None:
    whole = clip_of("h264").read_bytes()
    movie, track, box = whole.index(b"mvhd") + 4, whole.index(b"tkhd") + 4, whole.index(b"moov") - 4
    turned = bytearray(whole)
    turned[movie + 36 : movie + 40] = bytes(4)
    large = whole[:box] + b"\0\0\0\1moov" + (len(whole) - box + 8).to_bytes(8, "big") + whole[box + 8 :]
    later = bytearray(whole)  # of version 1, in which the matrix is 12 bytes further on
    later[track] = 1
    unsure = [
        bytes(turned),
        bytes(later),
        bytes(turned) + whole,
        whole.replace(b"tkhd", b"free"),
        whole[:box] + b"\0\0\0\7" + whole[box + 4 :],
        whole[: track + 20],
        b"",
    ]
    assert_upright(tmp_path / "clip", "mov,mp4,m4a,3gp,3g2,mj2", [whole, large], unsure)


def assert_upright(path: Path, names: str, certain: list[bytes], unsure: list[bytes]) -> None:
    assert read_headers(path, names) == (False, False), "there is no file"
    for data in (*certain, *unsure):
        path.write_bytes(data)
        assert read_headers(path, names)[1] == (data in certain)


def test_matroska_whose_tracks_come_late_or_are_projected(clip_of: ClipOf, tmp_path: Path) -> None:
    whole = clip_of("vp9").read_bytes()
    codec = whole.index(b"V_VP9")
    tracks = whole.rindex(b"\x16\x54\xae\x6b", 0, codec)
    unsure = [
        whole[:codec] + b"\x76\x70" + whole[codec + 2 :],
        whole[:tracks] + b"\x1f\x43\xb6\x75" + whole[tracks + 4 :],
        whole[: tracks + 20],
    ]
    assert_upright(tmp_path / "clip.webm", "matroska,webm", [whole], unsure)


def test_colours_that_only_the_container_names(clip_of: ClipOf, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(clip_of("h264"))) as given, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(given.streams.video[0])
        decoder = stream.codec_context
        decoder.colorspace = decoder.color_primaries = decoder.color_trc = 1
        for packet in given.demux(video=0):
            packet.stream = stream
            target.mux([packet] if packet.size else [])
    assert decode_in_full(path)[0].colorspace == 1
    with open_clip(path) as clip:
        assert clip.colorspace == 1


def test_files_under_the_name_of_another_format(clip_of: ClipOf, tmp_path: Path) -> None:
    for kind, suffix in [("h264_mkv", ".mp4"), ("h264", ".mkv"), ("mpeg4_avi", ".mp4"), ("vp9", ".avi")]:
        with open_clip(Path(shutil.copy(clip_of(kind), tmp_path / f"{kind}{suffix}"))) as clip:
            assert clip.frames == 48


def test_only_the_wanted_gops_are_needed(clip_of: ClipOf) -> None:
    with open_clip(clip_of("h264_short_gop")) as clip:
        assert clip.key_frames == [0, 12, 24, 36]
        assert clip.needed([]) == []
        assert clip.needed([24]) == [24]
        assert set(clip.needed([13, 40])) <= {*range(12, 24), *range(36, 48)}
        assert [run[0] for run in clip.runs([13, 40])] == [12, 36]
        assert clip.runs([20, 13, 13]) == clip.runs([13, 20])


@pytest.mark.parametrize("kind", ["h264", "hevc", "mpeg4_mp4", "mpeg2_ts", "hevc_layers"])
def test_pictures_that_no_other_refers_to_are_left_out(clip_of: ClipOf, kind: str) -> None:
    with open_clip(clip_of(kind)) as clip:
        last = clip.key_frames[0] + 11
        assert len(clip.needed([last])) < last
        for index in range(clip.frames):
            assert set(clip.needed([index])) <= set(clip.needed([index, last]))


@pytest.mark.parametrize("kind", ["h264_open_gop", "hevc"])
def test_frames_that_lead_a_key_frame_need_the_gop_before(clip_of: ClipOf, kind: str) -> None:
    with open_clip(clip_of(kind)) as clip:
        starts = [clip.needed([key])[0] for key in clip.key_frames]
        led = 0
        for number in range(1, len(starts)):
            key = clip.key_frames[number]
            (run,) = clip.runs([key - 1])
            assert run[0] == starts[number - 1]
            leading = {clip.needed([index])[-1] for index in range(key)} & set(range(starts[number], clip.packets))
            led += len(leading)
            assert run[-1] > starts[number] or not leading, "passes the key frame"
            assert not leading & set(clip.needed([key, clip.frames - 1 if number == len(starts) - 1 else key + 4]))
        assert led


def test_mpeg4_shows_its_decoder_the_first_packet(clip_of: ClipOf) -> None:
    with open_clip(clip_of("mpeg4_avi")) as clip:
        assert clip.runs([30]) == [[0], list(range(24, 31))]


@pytest.mark.parametrize("kind", ["wmv2", "ffv1", "h264_two_encoders"])
def test_what_may_depend_on_everything_before_is_read_from_the_start(clip_of: ClipOf, kind: str) -> None:
    with open_clip(clip_of(kind)) as clip:
        assert clip.needed([40])[:20] == list(range(20))


def test_mpeg2_pictures() -> None:
    def picture(kind: int, before: bytes = b"") -> memoryview:
        return memoryview(before + b"\0\0\1\0\0" + bytes([kind << 3, 0, 0]))

    syntax = Syntax("mpeg2video", b"")
    sequence_header = b"\0\0\1\xb3" + bytes(8)
    pictures = [picture(1, sequence_header), picture(1), picture(2), picture(3)]
    read = [syntax.read(each, key) for each, key in zip(pictures, (True, True, False, False), strict=True)]
    assert [each.start for each in read] == [True, False, False, False], "an I picture has its tables before it"
    assert [each.layer == syntax.highest for each in read] == [False, False, False, True]
    assert syntax.framed
    syntax.read(memoryview(b"no picture"), False)
    assert not syntax.framed


def test_h264_fields_are_no_frames(clip_of: ClipOf) -> None:
    with av.open(str(clip_of("h264_interlaced"))) as given:
        header = given.streams.video[0].codec_context.extradata or b""
    # first_mb_in_slice 0, slice_type 7, pic_parameter_set_id 0, frame_num in 4 bits, field_pic_flag
    frame, field = (b"\0\0\0\x10\x65" + bytes([0b10001000, 0b10000000 | flag << 2]) + bytes(13) for flag in (0, 1))
    assert slice_type(0b01010000) == slice_type(0b10000101) == -1, "not the picture's first slice; no such type"
    syntax = Syntax("h264", header)
    assert syntax.read(memoryview(frame), True).start
    assert syntax.framed
    syntax.read(memoryview(field), True)
    assert not syntax.framed
    without_sequence = Syntax("h264", b"")
    without_sequence.read(memoryview(b"\0\0\1" + frame[4:]), True)
    assert not without_sequence.framed


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "params"),
    [
        ("yuv420p", "libx264", "colormatrix=bt709"),
        ("yuv420p", "libx264", "colormatrix=smpte170m:overscan=show:sar=12/11"),
        ("yuv420p", "libx264", "interlaced=1:colormatrix=bt470bg"),
        ("yuv420p", "libx264", "cqm=jvt"),
        ("yuvj420p", "libx264", "sar=77/13"),
        ("yuvj422p", "libx264", ""),
        ("yuv422p10le", "libx264", ""),
        ("yuv444p", "libx264", "cqm=jvt"),
        ("yuv444p10le", "libx264", "colormatrix=bt2020nc"),
        ("gray", "libx264", ""),
        ("rgb24", "libx264rgb", ""),
    ],
)
def test_colours_and_format(tmp_path: Path, pix_fmt: str, codec: str, params: str) -> None:
    options = {"x264-params": params}
    path = write_clip(tmp_path / "clip.mp4", 2, codec=codec, pix_fmt=pix_fmt, options=options)
    frame = decode_in_full(path)[0]
    with open_clip(path) as clip:
        assert clip.pix_fmt == frame.format.name
        assert (clip.colorspace, clip.color_range) == (frame.colorspace, frame.color_range)


@pytest.mark.parametrize(
    "params", ["", "fullrange=on:chromaloc=2:sar=77/13", "vbv-maxrate=300:vbv-bufsize=300:nal-hrd=vbr:pic-struct=1"]
)
def test_reordering_is_stated(tmp_path: Path, params: str) -> None:
    unit = parameter_set(write_clip(tmp_path / "clip.mp4", 2, options={"x264-params": params}))
    sequence = read_sequence(unit)
    assert sequence is not None and sequence.reordering
    cut = read_sequence(unit[:-6])
    assert cut is not None and not cut.reordering
    assert read_sequence(unit[:7]) is read_sequence(unit[:1]) is None


# Broken and hostile files.


def refused(path: Path) -> str:
    with pytest.raises(SampleError) as caught:
        open_clip(path)
    assert caught.value.stage == "plan"
    assert "\n" not in caught.value.reason
    return caught.value.reason


def test_no_video(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "nothing.mp4")
    assert "cannot be read" in refused(tmp_path / "nul\0.mp4")
    assert "not a regular file" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "not a regular file" in refused(tmp_path / "pipe.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "cut short" in refused(tmp_path / "empty.mp4")
    (tmp_path / "line\nbreak.mp4").write_text("This is no video.\n" * 100)
    assert "no video" in refused(tmp_path / "line\nbreak.mp4")
    assert "holds audio, expected a video" in refused(write_audio(tmp_path / "sound.mp4"))


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n", "pointer of Git LFS"),
        (b"\xef\xbb\xbf\r\n<!DOCTYPE html><title>404</title>", "web page"),
        (b"GIF89a\x01\x00\x01\x00", "GIF: `ffmpeg -i"),
    ],
)
def test_what_a_download_left_in_place_of_a_video(start: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(start)
    assert refused(path).startswith(f"is a {told}")


@pytest.mark.parametrize(
    ("kind", "types", "suffix"),
    [("h264_ts", "8", ".ts"), ("h264_raw", "7-8", ".h264"), ("hevc_bla_ts", "32-34", ".ts")],
)
def test_missing_parameter_sets_are_named(clip_of: ClipOf, tmp_path: Path, kind: str, types: str, suffix: str) -> None:
    path = filtered(clip_of(kind), tmp_path / f"clip{suffix}", f"filter_units=remove_types={types}")
    assert refused(path) == "its parameter sets are missing, without which nothing of it can be decoded"


@pytest.mark.parametrize("kind", ["h264", "hevc"])
def test_a_codec_that_is_unknown_is_named(clip_of: ClipOf, tmp_path: Path, kind: str) -> None:
    data = clip_of(kind).read_bytes()
    for name in (b"avc1", b"hev1", b"hvc1"):
        data = data.replace(name, b"zzzz")
    (path := tmp_path / "clip.mp4").write_bytes(data)
    assert refused(path) == "its codec is unknown to libav, or one that libav has no decoder for"


def test_playlists_open_no_other_files(clip_of: ClipOf, tmp_path: Path) -> None:
    shutil.copy(clip_of("h264"), tmp_path / "clip.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    refused(tmp_path / "list.mp4")


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as target:
        cover = target.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        target.mux([*cover.encode(av.VideoFrame(32, 32, "yuvj420p")), *cover.encode(None)])
    assert refused(path) == "holds an attached picture, expected a video"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("chosen", ["a film after a cover", "the default one", "the first of two"])
def test_the_stream_is_the_one_that_a_player_chooses(tmp_path: Path, suffix: str, chosen: str) -> None:
    cover = chosen == "a film after a cover"
    with av.open(str(tmp_path / f"two{suffix}"), "w") as target:
        for number, frames in enumerate((1, 25) if cover else (12, 25)):
            codec, pix_fmt = ("mjpeg", "yuvj420p") if frames == 1 else ("libx264", "yuv420p")
            stream = target.add_stream(codec, rate=25)
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = 64 + 32 * number, 64, pix_fmt
            if chosen == "the default one":
                stream.disposition = Disposition.default if number else Disposition(0)
        packets: list[av.Packet[Any]] = []
        for stream, frames in zip(target.streams.video, (1, 25) if cover else (12, 25), strict=True):
            for number in range(frames):
                frame = av.VideoFrame(stream.width, stream.height, str(stream.pix_fmt))
                frame.pts = number
                packets += stream.encode(frame)
            packets += stream.encode(None)
        target.mux(packets)
    with open_clip(tmp_path / f"two{suffix}") as clip:
        assert (clip.width, clip.frames) == ((64, 12) if chosen == "the first of two" else (96, 25))
        assert len(list(clip.read(clip.needed([clip.frames - 1])))) == len(clip.needed([clip.frames - 1]))


@pytest.mark.parametrize(
    "kind", ["h264", "h264_index_first", "h264_mkv", "h264_ts", "hevc", "mpeg4_avi", "mpeg4_avi_packed", "vp9"]
)
def test_cut_anywhere(clip_of: ClipOf, tmp_path: Path, kind: str) -> None:
    data = clip_of(kind).read_bytes()
    path = tmp_path / clip_of(kind).name
    for size in random.Random(kind).sample(range(1, len(data)), 8):
        path.write_bytes(data[:size])
        try:
            with open_clip(path) as clip:
                assert clip.frames == len(decode_in_full(path))
        except SampleError:
            assert "cut short" in refused(path) or kind != "h264"


def test_a_size_beyond_reason(tmp_path: Path, clip_of: ClipOf, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = write_clip(tmp_path / "wide.avi", 1, (16400, 16), codec="mjpeg", pix_fmt="yuvj420p")
    assert "declares 16400x16" in refused(wide)
    monkeypatch.setattr(container, "MAX_PIXELS", 96 * 64 - 1)
    assert "declares 96x64" in refused(clip_of("h264"))
    assert refused(clip_of("mpeg4_mp4")) == f"declares no size, or more than {96 * 64 - 1} pixels"


def test_text_that_is_no_utf_8(clip_of: ClipOf, tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    path.write_bytes(clip_of("h264_mkv").read_bytes().replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    with open_clip(path) as clip:
        assert clip.frames == 48


def test_more_packets_than_reason(clip_of: ClipOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_PACKETS", 47)
    assert refused(clip_of("h264")) == "declares 48 video packets, expected at most 47"
    assert refused(clip_of("h264_mkv")) == "has more than 47 video packets"


def stutter(packets: list[av.Packet[Any]]) -> list[av.Packet[Any]]:
    packets[2].pts = packets[1].pts
    return packets


def jump_back(packets: list[av.Packet[Any]]) -> list[av.Packet[Any]]:
    frame = 1 / (25 * packets[0].time_base)
    for number, packet in enumerate(packets):
        packet.dts = number - len(packets)
        packet.pts = int(frame * (number if number < 32 else number - 20.5))
    return packets


@pytest.mark.parametrize(("kind", "change"), [("h264", stutter), ("h264_no_b", jump_back)])
def test_timestamps_that_cannot_be_believed(clip_of: ClipOf, tmp_path: Path, kind: str, change: Any) -> None:
    path = remux(clip_of(kind), tmp_path / "clip.mp4", change)
    with open_clip(path) as clip:
        assert not clip.timed
        assert clip.frames == len(decode_in_full(path)) == 48
        assert clip.needed([3]) == list(range(48))


def test_a_clip_is_closed(clip_of: ClipOf) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with open_clip(clip_of("h264")) as clip:
        assert isinstance(clip, Clip)
    with pytest.raises(SampleError):
        open_clip(Path(__file__))
    assert len(os.listdir("/proc/self/fd")) == descriptors
