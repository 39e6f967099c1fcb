"""Which frames does a video hold, and which of its packets does decoding some of them take? Frames are numbered from 0
in presentation order, as a full sequential decode delivers them."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from fractions import Fraction
from functools import cached_property
from itertools import chain, compress, islice
from os import PathLike
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from gpupeak.errors import OUT_OF_MEMORY, SampleError, mistaken
from gpupeak.video.bitstream import Picture, Syntax
from gpupeak.video.gops import Gops
from gpupeak.video.headers import read_headers
from gpupeak.video.nal import Sequence
from gpupeak.video.orientation import UPRIGHT, Matrix, degrees, display_matrix

MAX_SIDE = 16384
MAX_PIXELS = 1 << 26  # twice 8K; a decoder holds up to 17 frames
MAX_PACKETS = 1 << 20  # nine hours at 30 frames/s; a small MP4 can declare any number
_SMALL = 16
_GUESSED = 7  # packets of H.264 after which libav takes the order of its pictures for known
KEPT_BYTES = 64 << 20  # packets up to here are kept, and the file is read once

# Matrices of ITU-T H.273 that swscale converts by; all others are taken for BT.601.
KNOWN_MATRICES = (0, 1, 2, 4, 5, 6, 7, 9)
KNOWN_TRANSFERS = (1, 2, *range(4, 19))  # the others are reserved
FULL_RANGE = 2
_UNSPECIFIED, _BT601 = 2, 5

# Video in one file: no playlists and concatenations (they open other files), no pictures.
_FORMATS = "mov,matroska,avi,mpegts,mpeg,asf,flv,ogg,nut,mxf,ivf,obu,h264,hevc,mpegvideo,m4v,mjpeg,dv,rm"
# libav's demuxers of the files whose headers tell most of what it would otherwise decode frames for.
_TELLING = {".mp4": "mov", ".mov": "mov", ".m4v": "mov", ".mkv": "matroska", ".avi": "avi"}

# Texts in a file need not be UTF-8; PyAV from 19 on takes them as they are.
_TEXTS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def open_clip(path: str | PathLike[str]) -> Clip:
    """Open a video and demux the stream that a player chooses; to be closed. Raises SampleError."""
    try:
        container = _open(Path(path), quick=True)
        try:
            return Clip(Path(path), container)
        except BaseException:
            container.close()
            raise
    except MemoryError as error:  # PyAV's own, too
        raise SampleError("plan", OUT_OF_MEMORY) from error


class Clip(AbstractContextManager["Clip"]):
    """An open video, and what one demux pass tells of it; made by `open_clip`. It decodes one thing at a time.

    Attributes:
        codec, pix_fmt: libav's names, such as "h264" and "yuv420p"; the last is None if unknown.
        width, height: the declared size in pixels, before rotation.
        colorspace, transfer, color_range: as in ITU-T H.273: 1 is BT.709, 5 and 6 BT.601; 1 limited, 2 full.
        tagged_full_range: H.264 itself says that its range is full, not only its container.
        packets, frames: how many video packets there are, and how many frames are presented.
        key_frames: the frames at which decoding can start, ascending; empty where not `timed`.
        gops: which packets they are, and what decoding takes of them.
        changes: the packets that bring other parameters than those before.
        recounted: decoding does not deliver the frames that the packets tell. They are numbered as a decode in full
            delivers them, for which the video was decoded once.
        ends_early: the file ends before its headers say that it does, or within a packet.
        timed: the packets tell their frames, and when these are presented. Not so in raw streams, H.264 and packed
            MPEG-4 in AVI, H.264 of single fields, and damaged files: these are decoded once to count the frames.
    """

    def __init__(self, path: Path, container: InputContainer) -> None:
        stream = _video_stream(container)
        self.path = path
        self.decoder = stream.codec_context
        self.codec = self.decoder.codec.canonical_name
        self.width, self.height = self.decoder.width, self.decoder.height
        # Not `pix_fmt`: where the format is not known, PyAV 17, the last for Python 3.10, crashes on that.
        self.pix_fmt = self.decoder.format.name if self.decoder.format else None
        self.colorspace, self.color_range = int(self.decoder.colorspace), int(self.decoder.color_range)
        self.transfer = int(self.decoder.color_trc)
        self.fps = float(stream.average_rate or 0)
        self._container = container
        self._format = container.format.name
        self._time_base = stream.time_base or Fraction(0)
        self._kept: list[Packet[VideoStream]] | None = []
        # An MP4 tells, and libavformat has made an index of them all, or run out of memory and made none.
        if stream.frames > MAX_PACKETS and self._format.startswith("mov"):
            raise SampleError("plan", f"declares {stream.frames} video packets, expected at most {MAX_PACKETS}")
        self.recounted, self.changes = False, set[int]()
        self.ends_early, self._upright = read_headers(path, self._format)
        self.timed = self._demux(stream)
        # libav declares 0x0 where it was kept from more than `max_pixels`.
        if not self.width * self.height:
            raise self._refused(f"declares no size, or more than {MAX_PIXELS} pixels")
        if max(self.width, self.height) > MAX_SIDE or self.width * self.height > MAX_PIXELS:
            raise SampleError("plan", f"declares {self.width}x{self.height} pixels, expected 1 to {MAX_PIXELS}")
        self._number(len(self.gops.shown) if self.timed else sum(1 for _ in self.decode_all()))

    def __exit__(self, *raised: object) -> None:
        self._kept = []
        self._container.close()

    @property
    def times(self) -> list[float]:
        """Seconds from the first frame to each frame; by the average frame rate where not `timed`."""
        if self.timed:
            return [float((self.pts(index) - self.pts(0)) * self._time_base) for index in range(self.frames)]
        return [index / self.fps if self.fps else 0.0 for index in range(self.frames)]

    @cached_property
    def matrix(self) -> Matrix:
        """How the picture is turned upright; where headers leave it open, a frame is decoded."""
        if self._upright and not self._syntax.oriented:
            return UPRIGHT
        first = next(decoded(self.decoder, self.read(range(self.packets)), tolerant=True), None)
        return UPRIGHT if first is None else display_matrix(first.reformat(_SMALL, _SMALL, "gray"))

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise that turn the picture upright, if `matrix` does not mirror it."""
        return degrees(self.matrix)

    def pts(self, index: int) -> int:
        """The timestamp of frame `index` in units of the stream's time base; only where `timed`."""
        return self.gops.pts[self.gops.shown[index]]

    def needed(self, indices: Iterable[int]) -> list[int]:
        """The numbers, ascending, of the packets that decoding frames `indices` takes; all where not `timed`."""
        return [number for run in self.runs(indices) for number in run]

    def runs(self, indices: Iterable[int]) -> list[list[int]]:
        """`needed` in runs; between two of them the decoder has to be flushed."""
        if not self.timed:
            return [list(range(self.packets))]
        runs = self.gops.runs(indices)
        # libav's MPEG-4 decoder picks its IDCT and workarounds by the encoder's name, in the first packet.
        if self.codec == "mpeg4" and runs and runs[0][0] > 0:
            runs.insert(0, [0])
        return runs

    def recount(self, delivered: int) -> None:
        """Number the frames as a decode in full `delivered` them: the packets do not tell."""
        self.timed, self.recounted = False, True
        self._number(delivered)

    def _number(self, frames: int) -> None:
        self.frames = frames
        if not frames:
            raise self._refused(f"none of its {self.packets} video packets can be decoded")
        starts = set(self.gops.starts if self.timed else ())
        self.key_frames = [index for index, number in enumerate(self.gops.shown) if number in starts]

    def _refused(self, reason: str) -> SampleError:
        headless = "its parameter sets are missing, without which nothing of it can be decoded"
        return SampleError("plan", headless if self._syntax.missing else reason)

    def read(self, numbers: Collection[int]) -> Iterator[Packet[VideoStream]]:
        if self._kept is not None:
            yield from map(self._kept.__getitem__, sorted(numbers))
            return
        chosen = set(numbers)
        with _open(self.path, quick=True) as container:
            wanted = (number in chosen for number in range(max(chosen, default=-1) + 1))
            yield from compress(_demuxed(container, _video_stream(container)), wanted)

    def decode_all(self) -> Iterator[VideoFrame]:
        """Every frame, as a sequential decode that skips over errors delivers it. The file is opened anew, and not
        quickly: not every decoder forgets when flushed all that it has read."""
        with _open(self.path, quick=False) as container:
            stream = _video_stream(container)
            packets = islice(_demuxed(container, stream), self.packets)
            yield from decoded(stream.codec_context, packets, tolerant=True)

    def _demux(self, stream: VideoStream) -> bool:
        self._syntax = syntax = Syntax(self.codec, self.decoder.extradata or b"")
        pictures, pts, shown = list[Picture](), list[int](), list[int]()
        damaged = torn = False
        size = 0
        try:
            for number, packet in enumerate(_demuxed(self._container, stream)):
                if number == MAX_PACKETS:
                    raise SampleError("plan", f"has more than {MAX_PACKETS} video packets")
                size += packet.size
                if size > KEPT_BYTES:
                    self._kept = None
                elif self._kept is not None:
                    self._kept.append(packet)
                torn = packet.is_corrupt  # of the last one, as libavformat marks what it could not read in full
                damaged = damaged or packet.pts is None or torn
                pts.append(packet.pts or 0)
                picture = syntax.read(memoryview(packet), packet.is_keyframe)
                pictures.append(picture)
                if picture.shown and not packet.is_discard:
                    shown.append(number)
                for side in packet.iter_sidedata():  # `has_sidedata` takes four times as long
                    if side.data_type == "new_extradata":
                        self.changes.add(number)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            if not pictures:
                raise SampleError("plan", f"cannot be demuxed: {error.strerror}") from error
            damaged = True
        syntax.standalone &= self.changes <= {0}
        self.packets = len(pictures)
        self.ends_early |= torn
        starts = [number for number, picture in enumerate(pictures) if picture.start]
        fresh = [number for number, picture in enumerate(pictures) if picture.fresh]
        droppable = [picture.layer == syntax.highest for picture in pictures]
        self.gops = gops = Gops(pts, shown, starts, fresh, droppable, syntax.standalone)
        sequence = syntax.sequence
        self.tagged_full_range = sequence is not None and sequence.color_range == FULL_RANGE
        if sequence is not None:  # the bitstream has the last word, as in libav's decoders
            if self.pix_fmt is None:
                self.pix_fmt, self.color_range = sequence.pix_fmt, sequence.color_range or self.color_range
            self.colorspace = self.colorspace if sequence.colorspace is None else sequence.colorspace
            self.transfer = self.transfer if sequence.transfer is None else sequence.transfer
        if damaged or not syntax.framed or not gops.ordered(syntax.bidirectional) or not self._sort(gops):
            return False
        if syntax.doubtful or self._drops(sequence):
            self.recounted = True
            return False
        if not syntax.standalone:
            gops.starts = [0]
        return True

    def _drops(self, sequence: Sequence | None) -> bool:
        """Whether libav guesses, from the start of H.264, how many pictures wait for others, and later ones need more:
        it drops those that come too late."""
        if self.codec != "h264" or self._format.startswith("mov") or (sequence and sequence.reordering):
            return False
        waits = {number: number - place for place, number in enumerate(self.gops.shown)}
        return max(waits.values()) > max((waits[number] for number in waits if number < _GUESSED), default=0)

    def _sort(self, gops: Gops) -> bool:
        """False if decoding does not bear it out: what is presented before the first key frame may need another."""
        pts, first = gops.pts, gops.pts[gops.starts[0]]
        if any(pts[number] < first for number in gops.shown):
            delivered: list[int | None] = []
            for frame in self.decode_all():
                delivered.append(frame.pts)
                if frame.pts is None or frame.pts >= first:
                    break
            expected = [pts[number] for number in gops.shown if pts[number] <= first and pts[number] in delivered]
            if delivered != sorted(expected) or delivered[-1:] != [first]:
                return False
            gops.shown = [number for number in gops.shown if pts[number] > first or pts[number] in delivered]
        gops.shown.sort(key=pts.__getitem__)
        return True


def decoded(
    decoder: VideoCodecContext, packets: Iterable[Packet[VideoStream]], tolerant: bool = False
) -> Iterator[VideoFrame]:
    """The frames of a run of packets, the decoder being flushed before; `tolerant` skips over errors. Their colours are
    such that swscale knows."""
    decoder.flush_buffers()
    for packet in chain(packets, (None,)):
        try:
            frames = decoder.decode(packet)
        except (av.FFmpegError, ValueError) as error:  # ValueError: PyAV 19 of a decoder that was not opened before
            if not tolerant or isinstance(error, MemoryError):
                raise
            continue
        for frame in frames:
            if frame.colorspace not in KNOWN_MATRICES:
                frame.colorspace = _BT601
            # PyAV 17.1 refuses what swscale does not know, later ones leave both out.
            frame.color_trc = frame.color_primaries = _UNSPECIFIED
            yield frame


def _open(path: Path, quick: bool) -> InputContainer:
    """Open a file; where `quick`, its headers are believed, and the colours may be unknown."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise SampleError("plan", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise SampleError("plan", "is not a regular file")
    try:
        if quick and (demuxer := _TELLING.get(path.suffix.lower())):
            with suppress(av.FFmpegError, ValueError):  # its name may be misleading
                container = _av_open(path, demuxer)
                if _told(container):
                    return container
                container.close()
        return _av_open(path)
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        with suppress(OSError), path.open("rb") as file:
            if told := mistaken(file.read(100)):
                raise SampleError("plan", told) from error
        raise SampleError("plan", f"cannot be opened, is no video or is cut short: {reason}") from error


def _told(container: InputContainer) -> bool:
    """Whether the headers say all of the video that decoding would."""
    stream = _video_stream(container)
    decoder, demuxer = stream.codec_context, container.format.name
    codec = decoder.codec.canonical_name
    # Which of several films is the best depends on what has been decoded.
    if len(_films(container)) > 1 or not (decoder.width and stream.average_rate):
        return False
    if codec == "h264" and demuxer != "avi":  # MP4 states how frames are reordered, and `nal` reads the colours
        sequence = Syntax(codec, decoder.extradata or b"").sequence
        return sequence is not None and (sequence.reordering or demuxer.startswith("mov"))
    return decoder.format is not None and (codec == "mpeg4" or (codec == "hevc" and demuxer != "avi"))


def _av_open(path: Path, demuxer: str | None = None) -> InputContainer:
    """Open a file, by a demuxer that is given without decoding anything of it."""
    options = {"max_pixels": str(MAX_PIXELS)}
    limits = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    if demuxer:
        # libavformat decodes up to seven frames of H.264 (9 to 24 ms at 1280x720, all else takes 0.5 ms). So it gets no
        # decoders but those that read only headers when told to skip frames; H.264's are read here.
        options["skip_frame"] = "all"
        limits |= {"analyzeduration": "1", "codec_whitelist": "hevc,mpeg4"}
    opened: InputContainer = av.open(
        f"file:{path}", format=demuxer, options=options, container_options=limits, **_TEXTS
    )
    return opened


def _video_stream(container: InputContainer) -> VideoStream:
    """The one that a player chooses, and no other is read. Its decoder is single-threaded, because processes are the
    parallelism, and bounded in memory."""
    films = _films(container)
    if not films:
        held = ", ".join(stream.type for stream in container.streams) or "nothing"
        held = "an attached picture" if container.streams.video else held
        raise SampleError("plan", f"holds {held}, expected a video")
    best = container.streams.best("video") if len(films) > 1 else None
    stream = next((film for film in films if film is best), films[0])
    if (decoder := stream.codec_context) is None:
        raise SampleError("plan", "its codec is unknown to libav, or one that libav has no decoder for")
    decoder.thread_count = 1
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def _films(container: InputContainer) -> list[VideoStream]:
    """The streams that are no covers. Not every cover is flagged as an attached picture: one of several, of a single
    frame, is one, too."""
    videos = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    return [each for each in videos if each.frames != 1] or videos


def _demuxed(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The packets of a stream; those without data, of which PyAV appends one, are none."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except IndexError:
        return  # PyAV, at the end of a damaged MPEG-TS that gained streams on the way
