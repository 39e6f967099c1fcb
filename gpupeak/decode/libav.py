"""How are the wanted frames of a video decoded on the CPU, from only the packets that they need?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from os import PathLike

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from gpupeak.errors import OUT_OF_MEMORY, SampleError, counted
from gpupeak.video.container import Clip, decoded, open_clip
from gpupeak.video.orientation import display_matrix, upright


class Recounted(SampleError):
    """A clip delivers other frames than its packets say. It has counted them: what is wanted is to be planned anew."""


def decode_frames(path: str | PathLike[str], indices: Sequence[int], size: int | None = 224) -> npt.NDArray[np.uint8]:
    """Decode frames of a video by their numbers from 0 in presentation order, each once: uint8 RGB `[n, size, size,
    3]`.

    Frames are upright; the matrix from YCbCr is the stream's, else BT.601. swscale's bilinear filter squashes frames to
    `size` pixels; with None they keep their own size. Raises SampleError at stage "plan" or "decode".
    """
    with open_clip(path) as clip:
        with suppress(Recounted):
            return decode_clip(clip, indices, size)
        return decode_clip(clip, indices, size)


def decode_clip(
    clip: Clip, indices: Sequence[int], size: int | None = 224, out: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """`decode_frames` for an open clip. `out`, uint8 `[n, size, size, 3]`, is written and returned if given. Raises
    Recounted, once."""
    for index in indices:
        if not 0 <= index < clip.frames:
            raise SampleError("decode", f"frame {index} planned, video has {clip.frames}")
    canvas = _Canvas(clip, indices, size, out)
    try:
        if not (clip.timed and _decode_needed(clip, canvas)):
            _decode_all(clip, canvas)
    except MemoryError as error:  # PyAV's own, too
        raise SampleError("decode", OUT_OF_MEMORY) from error
    except av.FFmpegError as error:
        raise SampleError("decode", f"cannot be decoded: {error.strerror}") from error
    if canvas.missing:
        named = ", ".join(map(str, sorted(canvas.missing)[:5]))
        raise SampleError("decode", f"{len(canvas.missing)} of the frames cannot be decoded: {named}")
    return canvas.pixels


def _decode_needed(clip: Clip, canvas: _Canvas) -> bool:
    """False if other frames are delivered than the packets say, or a damaged one: libav conceals damage with what it
    decoded before."""
    index_of: dict[int | None, int] = {clip.pts(index): index for index in canvas.missing}
    runs, shown = clip.runs(canvas.missing), set(clip.gops.shown)
    packets = clip.read([number for run in runs for number in run])
    try:
        for run in runs:
            expected = clip.gops.delivers(run, shown)
            delivered = list[int | None]()
            for frame in decoded(clip.decoder, islice(packets, len(run))):
                if frame.is_corrupt:
                    return False
                if expected and frame.pts is not None and frame.pts >= expected[0]:
                    delivered.append(frame.pts)
                if (index := index_of.get(frame.pts)) is not None:
                    canvas.paint(index, frame)
            if delivered != expected:
                return False
    except (av.FFmpegError, ValueError):
        return False
    return not canvas.missing


def _decode_all(clip: Clip, canvas: _Canvas) -> None:
    canvas.missing = set(canvas.rows)
    delivered = list[int | None]()
    for ordinal, frame in enumerate(clip.decode_all()):
        if ordinal in canvas.missing:
            canvas.paint(ordinal, frame)
        delivered.append(frame.pts)
        if not (clip.timed or canvas.missing):
            return
    if clip.timed and delivered != [clip.pts(index) for index in range(clip.frames)]:
        told = clip.frames
        clip.recount(len(delivered))
        raise Recounted("decode", f"delivers {counted(clip.frames, 'frame')}, its packets tell {told}")


class _Canvas:
    """Where the wanted frames go: `rows` of `pixels` for each; those in `missing` are still to be painted."""

    def __init__(self, clip: Clip, indices: Sequence[int], size: int | None, out: npt.NDArray[np.uint8] | None) -> None:
        self.rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            self.rows.setdefault(index, []).append(row)
        self.missing = set(self.rows)
        # Unknown until the first one is there: frames of their own size.
        self.pixels = np.empty((len(indices) if size else 0, size or 0, size or 0, 3), np.uint8) if out is None else out
        # The rest of a picture cut short is what its memory held, so swscale may not keep any from being used again.
        self._copying = clip.codec == "mjpeg" and not clip.gops.standalone
        self._squash, self._squash_copy = _squash(size), _squash(size)  # setting one up anew takes 0.4 ms

    def paint(self, index: int, frame: VideoFrame) -> None:
        squashed = self._squash(frame)
        matrix = display_matrix(squashed)
        if frame.interlaced_frame or self._copying:
            squashed = self._squash_copy(_woven(frame))
        picture = upright(np.asarray(squashed.to_ndarray(), np.uint8), matrix)
        if not self.pixels.size:
            self.pixels = np.empty((sum(map(len, self.rows.values())), *picture.shape), np.uint8)
        if picture.shape != self.pixels.shape[1:]:
            height, width = picture.shape[:2]
            raise SampleError("decode", f"frame {index} is {width}x{height}, unlike the frames before it")
        self.pixels[self.rows[index]] = picture
        self.missing.discard(index)


def _squash(size: int | None) -> Callable[[VideoFrame], VideoFrame]:
    # One thread: processes are the parallelism, and the work is 0.7 ms at 1280x720.
    by = VideoReformatter().reformat
    return lambda frame: by(frame, size, size, "rgb24", interpolation="BILINEAR", threads=1)


def _woven(frame: VideoFrame) -> VideoFrame:
    """A copy that is not flagged as interlaced: swscale would squash each of the two fields by itself."""
    copy = VideoFrame(frame.width, frame.height, frame.format.name)
    for there, here in zip(copy.planes, frame.planes, strict=True):
        rows, given = (
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size) for plane in (there, here)
        )
        width = min(there.line_size, here.line_size)
        rows[:, :width] = given[: len(rows), :width]
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    return copy
