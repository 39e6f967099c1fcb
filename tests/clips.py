"""Test clips, made by code: a moving texture that carries the number of each frame, in any codec and container.

`write_clip` makes one; `KINDS` names the kinds that a decoder has to get right, made by `write_kind`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.bitstream import BitStreamFilterContext
from av.codec.context import Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

Options: TypeAlias = dict[str, str]
Picture: TypeAlias = npt.NDArray[np.uint8]
Packets: TypeAlias = "list[Packet[Any]]"


def pictures(frames: int, size: tuple[int, int] = (96, 64), seed: int = 0) -> Iterator[Picture]:
    """RGB pictures `[height, width, 3]` of a texture that moves, the number of each in binary along the top."""
    width, height = size
    texture = np.random.default_rng(seed).integers(0, 256, (height // 4 + 40, width // 4 + 60, 3), np.uint8)
    texture = texture.repeat(4, axis=0).repeat(4, axis=1)
    for number in range(frames):
        x, y = 3 * number % 150, 2 * number % 100
        picture = texture[y : y + height, x : x + width].copy()
        for bit in range(8):
            picture[:16, bit * 8 : bit * 8 + 8] = 255 * (number >> bit & 1)
        yield picture


def write_clip(
    path: Path,
    frames: int = 48,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    fps: int = 25,
    options: Options | None = None,
    pix_fmt: str = "yuv420p",
    *,
    mux_options: Options | None = None,
    times: Sequence[int] | None = None,
    colorspace: int | None = None,
    seed: int = 0,
    drawn: Iterable[Picture] | None = None,
    without_b: int = 0,
) -> Path:
    """Write a clip and return its path; the suffix names the container.

    `times` are when each frame is presented, in units of 1/fps s; `colorspace` the matrix (ITU-T H.273) by which
    the pictures are converted and that is tagged; `drawn` the pictures, if not those of `pictures`. The first
    `without_b` frames are no B pictures.
    """
    with _own_priority(), av.open(str(path), "w", options=mux_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        for number, frame in enumerate(_frames(drawn or pictures(frames, size, seed), pix_fmt, colorspace)):
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, fps)
            if number < without_b:
                frame.pict_type = PictureType.P if number % 12 else PictureType.I
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _frames(drawn: Iterable[Picture], pix_fmt: str = "yuv420p", colorspace: int | None = None) -> Iterator[VideoFrame]:
    """The pictures as an encoder takes them, 25 a second."""
    for number, picture in enumerate(drawn):
        frame = VideoFrame.from_ndarray(picture, format="rgb24")
        frame = frame.reformat(format=pix_fmt, dst_colorspace=colorspace)
        frame.pts, frame.time_base = number, Fraction(1, 25)
        yield frame


@contextmanager
def _own_priority() -> Iterator[None]:
    """Undo what SVT-AV1's encoder does for root: the whole process would be real-time, and starve what it starts."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def decode_in_full(path: Path) -> list[VideoFrame]:
    """Every frame of a video as a decoder delivers them one after another: what a faster way must agree with."""
    frames: list[VideoFrame] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # what libav conceals damage with depends on it
        for packet in container.demux(stream):
            with suppress(av.FFmpegError):
                frames += stream.codec_context.decode(packet if packet.size else None)
    return frames


def write_audio(path: Path) -> Path:
    """A second of silence, and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, path: Path, change: Callable[[Packets], Packets]) -> Path:
    """Copy the packets of a clip that `change` returns, as it returns them."""
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in change([packet for packet in given.demux(video=0) if packet.size]):
            packet.stream = stream
            container.mux(packet)
    return path


def filtered(source: Path, path: Path, bitstream_filter: str) -> Path:
    """Copy the packets of a clip through one of libav's bitstream filters, its header changed, too."""
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        changing = BitStreamFilterContext(bitstream_filter, given.streams.video[0], stream)
        for packet in given.demux(video=0):
            for changed in changing.filter(packet if packet.size else None):
                changed.stream = stream
                container.mux(changed)
    return path


def parameter_set(path: Path) -> bytes:
    """The sequence parameter set of an MP4 of H.264 or HEVC: after the two bytes of its length, its header first."""
    with av.open(str(path)) as container:
        decoder = container.streams.video[0].codec_context
    record = decoder.extradata or b""
    at = record.index(b"\x42\1" if decoder.name == "hevc" else b"\x67", 5)
    return record[at : at + int.from_bytes(record[at - 2 : at], "big")]


def with_data(packet: Packet[Any], data: bytes) -> Packet[Any]:
    """A packet as another, but for its data."""
    copy: Packet[Any] = Packet(data)
    copy.time_base, copy.pts, copy.dts = packet.time_base, packet.pts, packet.dts
    copy.is_keyframe, copy.duration = packet.is_keyframe, packet.duration
    return copy


def superframe(*frames: bytes) -> bytes:
    """Frames of VP9 in one packet (annex B)."""
    marker = bytes([0b11001000 | len(frames) - 1])  # sizes of two bytes
    return b"".join([*frames, marker, *(struct.pack("<H", len(frame)) for frame in frames), marker])


def hidden_vp9(frame: bytes) -> bytes:
    return bytes([frame[0] & ~2]) + frame[1:]  # show_frame


def rotate(source: Path, path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Copy an MP4 with the 2x2 part a, b, c, d of its display matrix changed (ISO/IEC 14496-12, tkhd)."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def _shown_early(path: Path, frames: int, options: Options | None = None) -> Path:
    """An edit list that cuts the first `frames` off: their packets are there, for the others to refer to."""

    def earlier(packets: Packets) -> Packets:
        for packet in packets:
            _delay(packet, -int(frames / 25 / packet.time_base))
        return packets

    return remux(write_clip(path.with_name(f"whole_{path.name}"), options=options), path, earlier)


def _delay(packet: Packet[Any], time: int) -> None:
    assert packet.pts is not None and packet.dts is not None
    packet.pts, packet.dts = packet.pts + time, packet.dts + time


def _cut(path: Path, first: int, codec: str = "libx264", options: Options | None = None) -> Path:
    """The packets from `first` on, in decoding order: a cut without decoding, key frame or not."""
    whole = write_clip(path.with_name(f"whole_{path.stem}.mkv"), codec=codec, options=options)
    return remux(whole, path, lambda packets: packets[first:])


def _rotated(path: Path, matrix: tuple[int, int, int, int], times: Sequence[int] | None = None) -> Path:
    return rotate(write_clip(path.with_name(f"upright_{path.name}"), times=times), path, matrix)


def _rotated_mkv(path: Path) -> Path:
    return remux(_rotated(path.with_name("rotated_for.mp4"), _CLOCKWISE), path, lambda packets: packets)


def _packed(path: Path) -> Path:
    """MPEG-4 with packed B frames as DivX 5 wrote it: P and B in one packet, then a VOP that is not coded."""
    options = {"bf": "1", "b_strategy": "0", "g": "24", "sc_threshold": "1000000000", "qscale": "3"}
    plain = write_clip(path.with_name("unpacked.avi"), codec="mpeg4", options=options)

    def pack(packets: Packets) -> Packets:
        payloads: list[bytes] = []
        for vop in map(bytes, packets):
            if _vop_type(vop) == 2:
                # A P-VOP of time increment 0 (of 25 a second, 5 bits) with vop_coded 0.
                payloads[-1:] = [payloads[-1] + vop, b"\0\0\1\xb6" + int("0101000001011111", 2).to_bytes(2, "big")]
            else:
                payloads.append(vop)
        payloads[0] = b"\0\0\1\xb2DivX503b1393p\0" + payloads[0]
        packed = [Packet(payload) for payload in payloads]
        for number, packet in enumerate(packed):
            packet.time_base, packet.pts, packet.dts = Fraction(1, 25), number, number
            packet.is_keyframe = _vop_type(payloads[number]) == 0
        return packed

    return remux(plain, path, pack)


def _vop_type(data: bytes) -> int:
    return data[data.index(b"\0\0\1\xb6") + 4] >> 6


def _hidden(path: Path) -> Path:
    """VP8 with every fifth frame hidden, as alternate reference frames are: show_frame is bit 4 (RFC 6386, 9.1)."""

    def hide(packets: Packets) -> Packets:
        for packet in packets[3::5]:
            data = bytes(packet)
            packet.update(bytes([data[0] & ~0x10]) + data[1:])
        return packets

    return remux(write_clip(path.with_name("all_shown.webm"), codec="libvpx", options={"g": "16"}), path, hide)


def _without_vui(path: Path, without_b: int = 0) -> Path:
    """H.264 that does not say how many frames are reordered: its sequence parameter set ends before its VUI."""
    whole = write_clip(path.with_name(f"vui_{path.name}"), options=_PYRAMID, without_b=without_b)
    unit = parameter_set(whole)
    raw = unit.replace(b"\0\0\3", b"\0\0")
    bits = f"{int.from_bytes(raw, 'big'):0{8 * len(raw)}b}"
    at = 32  # the NAL unit's header, profile, constraints and level
    for skipped in (0, 0, 0, 2, 0, 0, 0, 1, 0, 3):  # ue(v), as many as there are, and the bits that follow each
        at += 2 * (bits.index("1", at) - at) + 1 + skipped
    assert bits[at] == "1", "vui_parameters_present_flag"
    bare = int((bits[:at] + "01").ljust(8 * len(raw), "0"), 2).to_bytes(len(raw), "big").rstrip(b"\0")
    path.write_bytes(whole.read_bytes().replace(unit, bare.ljust(len(unit), b"\0")))
    return path


def _grows(path: Path) -> Path:
    """H.264 that does not say how many frames are reordered, and has no B pictures at first."""
    return remux(_without_vui(path.with_name(f"bare_{path.stem}.mp4"), without_b=24), path, list)


def _new_start(path: Path, bla: bool) -> Path:
    """HEVC with a broken link, or a picture that has all before it dropped that is not put out: slice headers begin
    with first_slice_segment_in_pic_flag and no_output_of_prior_pics_flag (ITU-T H.265, 7.3.6.1)."""

    def change(packets: Packets) -> Packets:
        packet = [packet for packet in packets if packet.is_keyframe][2]
        data = bytearray(bytes(packet))
        assert data[4] >> 1 in ((21,) if bla else (19, 20))
        data[4], data[6] = (16 << 1, data[6]) if bla else (data[4], data[6] | 0x40)
        packets[packets.index(packet)] = with_data(packet, bytes(data))
        return packets

    params = f"keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:open-gop={int(bla)}"
    return remux(_hevc(params)(path.with_name(f"whole_{path.stem}.mp4")), path, change)


def _not_put_out(path: Path) -> Path:
    """HEVC with every second IDR picture hidden: a second picture parameter set has pic_output_flag follow slice_type,
    in headers that have no more after it than slice_qp_delta and a flag (ITU-T H.265, 7.3.2.3.1 and 7.3.6.1)."""

    def bits_of(unit: bytes) -> str:
        return "".join(f"{byte:08b}" for byte in unit[2:])

    def unit_of(header: bytes, bits: str, data: bytes = b"") -> bytes:
        bits += "1" + "0" * (-(len(bits) + 1) % 8)
        unit = header + int(bits, 2).to_bytes(len(bits) // 8, "big") + data
        return len(unit).to_bytes(4, "big") + unit

    def hide(packets: Packets) -> Packets:
        extradata = packets[0].stream.codec_context.extradata
        at = extradata.index(b"\x44\1")
        bits = bits_of(extradata[at : at + int.from_bytes(extradata[at - 2 : at], "big")]).rstrip("0")[:-1]
        second = unit_of(b"\x44\1", f"010{bits[1:3]}1{bits[4:]}")
        for packet in [packet for packet in packets if packet.is_keyframe][1::2]:
            unit = bytes(packet)[4:]
            bits = bits_of(unit[:12])
            assert unit[0] >> 1 == 20 and bits[2:6] == "1011"
            end = 2 * bits.index("1", 6) - 6 + 2
            changed = unit_of(unit[:2], f"{bits[:2]}0100110{bits[6:end]}", unit[2 + end // 8 + 1 :])
            packets[packets.index(packet)] = with_data(packet, second + changed)
        return packets

    params = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:open-gop=0:sao=0:wpp=0"
    return remux(_hevc(params)(path.with_name("all_put_out.mp4")), path, hide)


def _split(path: Path, joined: bool = False) -> Path:
    """AV1 of which every frame is a packet, hidden ones, too; if `joined`, 20 of them are in one."""
    with _own_priority(), av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", rate=25, options={"g": "16"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        packets = [packet for frame in (*_frames(pictures(48)), None) for packet in stream.encode(frame)]
        splitter = BitStreamFilterContext("av1_frame_split", stream)
        parts = [part for packet in (*packets, None) for part in splitter.filter(packet)]
        if joined:
            parts[20:40] = [with_data(parts[39], b"".join(map(bytes, parts[20:40])))]
        for part in parts:
            part.stream = stream
            container.mux(part)
    return path


def _two_encoders(path: Path) -> Path:
    """MPEG-TS in which another encoder takes over at frame 24, its parameter sets sent once."""
    with av.open(str(path), "w") as container:
        stream = container.add_mux_stream("h264", rate=25, width=96, height=64)
        for part, params in enumerate(("cabac=1", "cabac=0")):
            encoder = VideoCodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = 96, 64, "yuv420p", Fraction(25)
            encoder.flags |= Flags.global_header
            encoder.options = {"g": "12", "x264-params": params}
            drawn = (*_frames(pictures(24, seed=part)), None)
            for number, packet in enumerate(packet for frame in drawn for packet in encoder.encode(frame)):
                sets = (encoder.extradata or b"") if number == 0 else b""
                copy = with_data(packet, sets + bytes(packet))
                _delay(copy, 24 * part)
                copy.stream = stream
                container.mux(copy)
    return path


_VFR = tuple(number + number // 5 * 2 + number // 7 * 5 for number in range(48))
_PYRAMID = {"g": "24", "x264-params": "bframes=5:b-adapt=0:b-pyramid=2"}
_OPEN_GOP = {"x264-params": "keyint=12:open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}
_AV1_OPEN_GOP = {"svtav1-params": "keyint=16:irefresh-type=1"}
_CLOCKWISE, _HALF, _COUNTER = (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)


def _hevc(params: str, make: Callable[..., Path] = write_clip, **more: Any) -> Callable[[Path], Path]:
    return partial(make, codec="libx265", options={"x265-params": f"log-level=none:{params}"}, **more)


KINDS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "h264": (".mp4", write_clip),
    "h264_mkv": (".mkv", write_clip),
    "h264_ts": (".ts", write_clip),
    "h264_avi": (".avi", write_clip),
    "h264_raw": (".h264", write_clip),
    "h264_fragmented": (".mp4", partial(write_clip, mux_options={"movflags": "frag_keyframe+empty_moov"})),
    "h264_index_first": (".mp4", partial(write_clip, mux_options={"movflags": "faststart"}, options={"g": "12"})),
    "h264_short_gop": (".mp4", partial(write_clip, options={"g": "12"})),
    "h264_pyramid": (".mp4", partial(write_clip, options=_PYRAMID)),
    "h264_no_vui": (".mp4", _without_vui),
    "h264_no_vui_mkv": (".mkv", _without_vui),
    "h264_grows_ts": (".ts", _grows),
    "h264_grows_mkv": (".mkv", _grows),
    "h264_grows_flv": (".flv", _grows),
    "h264_open_gop": (".mp4", partial(write_clip, options=_OPEN_GOP)),
    "h264_no_b": (".mp4", partial(write_clip, options={"g": "16", "bf": "0"})),
    "h264_intra_refresh": (".mp4", partial(write_clip, options={"x264-params": "intra-refresh=1:keyint=16"})),
    "h264_slices": (".mp4", partial(write_clip, size=(192, 128), options={"g": "12", "slices": "4"})),
    "h264_interlaced": (".mp4", partial(write_clip, options={"g": "12", "x264-params": "interlaced=1"})),
    "h264_10_bit": (".mp4", partial(write_clip, pix_fmt="yuv420p10le", options={"g": "12"})),
    "h264_444": (".mp4", partial(write_clip, size=(95, 63), pix_fmt="yuv444p", options={"g": "12"})),
    "h264_cropped": (".mp4", partial(write_clip, size=(90, 62), options={"g": "12"})),
    "h264_bt709": (".mp4", partial(write_clip, colorspace=1, options={"x264-params": "colormatrix=bt709"})),
    "h264_full_range": (".mp4", partial(write_clip, pix_fmt="yuvj420p")),
    "h264_vfr": (".mp4", partial(write_clip, times=_VFR, options={"g": "12"})),
    "h264_edit_list": (".mp4", partial(_shown_early, frames=17, options={"g": "12"})),
    "h264_edit_list_open_gop": (".mov", partial(_shown_early, frames=15, options=_OPEN_GOP)),
    "h264_cut": (".mp4", partial(_cut, first=5, options={"g": "12"})),
    "h264_cut_open_gop": (".mkv", partial(_cut, first=12, options=_OPEN_GOP)),
    "h264_cut_ts": (".ts", partial(_cut, first=7, options={"g": "12"})),
    "h264_two_encoders": (".ts", _two_encoders),
    "h264_rotated_90": (".mp4", partial(_rotated, matrix=_CLOCKWISE)),
    "h264_rotated_180": (".mp4", partial(_rotated, matrix=_HALF)),
    "h264_rotated_270_vfr": (".mov", partial(_rotated, matrix=_COUNTER, times=_VFR)),
    "h264_rotated_mkv": (".mkv", _rotated_mkv),
    "h264_one_frame": (".mp4", partial(write_clip, frames=1)),
    "hevc": (".mp4", _hevc("keyint=12")),
    "hevc_mkv": (".mkv", _hevc("keyint=16:bframes=4:b-pyramid=1")),
    "hevc_layers": (".mp4", _hevc("temporal-layers=3:bframes=3:b-adapt=0")),
    "hevc_10_bit": (".mp4", _hevc("keyint=12", pix_fmt="yuv420p10le")),
    "hevc_cut": (".mkv", _hevc("keyint=12", _cut, first=12)),
    "hevc_cut_radl": (".mp4", _hevc("keyint=12:open-gop=0:radl=2", _cut, first=12)),
    "hevc_bla": (".mp4", partial(_new_start, bla=True)),
    "hevc_bla_ts": (".ts", partial(_new_start, bla=True)),
    "hevc_not_put_out": (".mkv", _not_put_out),
    "hevc_no_output": (".mkv", partial(_new_start, bla=False)),
    "vp9": (".webm", partial(write_clip, codec="libvpx-vp9", options={"g": "16", "lag-in-frames": "12"})),
    "vp9_odd": (".mp4", partial(write_clip, codec="libvpx-vp9", size=(95, 63), options={"g": "16", "cpu-used": "5"})),
    "vp8": (".webm", partial(write_clip, codec="libvpx", options={"g": "16", "auto-alt-ref": "1"})),
    "vp8_hidden": (".webm", _hidden),
    "vp8_cut": (".webm", partial(_cut, first=5, codec="libvpx", options={"g": "16"})),
    "av1": (".mp4", partial(write_clip, codec="libsvtav1", options={"g": "16"})),
    "av1_split": (".mkv", _split),
    "av1_joined": (".mkv", partial(_split, joined=True)),
    "av1_open_gop": (".webm", partial(write_clip, codec="libsvtav1", options=_AV1_OPEN_GOP)),
    "mpeg4_avi": (".avi", partial(write_clip, codec="mpeg4", size=(95, 63))),
    "mpeg4_avi_b": (".avi", partial(write_clip, codec="mpeg4", options={"bf": "2", "g": "15"})),
    "mpeg4_avi_packed": (".avi", _packed),
    "mpeg4_avi_vfr": (".avi", partial(write_clip, codec="mpeg4", times=_VFR)),
    "mpeg4_mp4": (".mp4", partial(write_clip, codec="mpeg4", options={"bf": "2"})),
    "mpeg4_cut": (".mp4", partial(_cut, first=5, codec="mpeg4", options={"bf": "2"})),
    "mpeg4_cut_avi": (".avi", partial(_cut, first=5, codec="mpeg4")),
    "mjpeg_avi": (".avi", partial(write_clip, codec="mjpeg", pix_fmt="yuvj420p")),
    "mpeg2_ts": (".ts", partial(write_clip, codec="mpeg2video", options={"bf": "2"})),
    "mpeg2_ps": (".mpg", partial(write_clip, codec="mpeg2video", options={"bf": "2"})),
    "wmv2": (".wmv", partial(write_clip, codec="wmv2")),
    "flv1": (".flv", partial(write_clip, codec="flv")),
    "ffv1": (".mkv", partial(write_clip, codec="ffv1")),
}
"""Name -> suffix and maker. `write_kind` writes a clip of that kind."""


def write_kind(name: str, directory: Path) -> Path:
    """Write the clip `<name><suffix>` of one of `KINDS` below `directory`, and return its path."""
    suffix, make = KINDS[name]
    return make(directory / f"{name}{suffix}")
