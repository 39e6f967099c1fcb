"""How are the wanted frames of a video decoded on the CPU, from only the packets that they need?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from os import PathLike

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from gpupeak.errors import OUT_OF_MEMORY, SampleError
from gpupeak.video.container import Clip, decoded, open_clip
from gpupeak.video.orientation import display_matrix, upright

# Matrices of ITU-T H.273 that swscale converts by; all others are taken for BT.601.
KNOWN_MATRICES = (0, 1, 2, 4, 5, 6, 7, 9)
BT601, _UNSPECIFIED = 5, 2


def decode_frames(path: str | PathLike[str], indices: Sequence[int], size: int | None = 224) -> npt.NDArray[np.uint8]:
    """Decode frames of a video by their numbers from 0 in presentation order, each once: uint8 RGB `[n, size, size,
    3]`.

    Frames are upright; the matrix from YCbCr is the stream's, else BT.601. swscale's bilinear filter squashes frames to
    `size` pixels; with None they keep their own size. Raises SampleError at stage "plan" or "decode".
    """
    with open_clip(path) as clip:
        return decode_clip(clip, indices, size)


def decode_clip(
    clip: Clip, indices: Sequence[int], size: int | None = 224, out: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """`decode_frames` for an open clip. `out`, uint8 `[n, size, size, 3]`, is written and returned if given."""
    for index in indices:
        if not 0 <= index < clip.frames:
            raise SampleError("decode", f"frame {index} planned, video has {clip.frames}")
    canvas = _Canvas(indices, size, out)
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
    """False if a wanted frame is missing or any is damaged: libav conceals damage with what it decoded before."""
    index_of: dict[int | None, int] = {clip.pts(index): index for index in canvas.missing}
    runs = clip.runs(canvas.missing)
    packets = clip.read([number for run in runs for number in run])
    try:
        for run in runs:
            for frame in decoded(clip.decoder, islice(packets, len(run))):
                if frame.is_corrupt:
                    return False
                index = index_of.get(frame.pts)
                if index is not None:
                    canvas.paint(index, frame)
    except (av.FFmpegError, ValueError):
        return False
    return not canvas.missing


def _decode_all(clip: Clip, canvas: _Canvas) -> None:
    canvas.missing = set(canvas.rows)
    index_of: dict[int | None, int] = {clip.pts(index): index for index in canvas.missing if clip.timed}
    for ordinal, frame in enumerate(clip.decode_all()):
        index = index_of.get(frame.pts) if clip.timed else ordinal
        if index in canvas.missing:
            canvas.paint(index, frame)
        if not canvas.missing:
            break


class _Canvas:
    """Where the wanted frames go: `rows` of `pixels` for each; those in `missing` are still to be painted."""

    def __init__(self, indices: Sequence[int], size: int | None, out: npt.NDArray[np.uint8] | None) -> None:
        self.rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            self.rows.setdefault(index, []).append(row)
        self.missing = set(self.rows)
        self._size = size
        self._reformatter = VideoReformatter()
        self._out = np.empty((len(indices), size, size, 3), np.uint8) if out is None and size is not None else out

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        return np.empty((0, 0, 0, 3), np.uint8) if self._out is None else self._out

    def paint(self, index: int, frame: VideoFrame) -> None:
        size, matrix = self._size, display_matrix(frame)
        if frame.interlaced_frame:
            frame = _woven(frame)
        if frame.colorspace not in KNOWN_MATRICES:
            frame.colorspace = BT601
        # PyAV 17.1 refuses those that swscale does not know; none is converted.
        frame.color_trc = frame.color_primaries = _UNSPECIFIED
        # One thread: processes are the parallelism, and the work is 0.7 ms at 1280x720.
        squashed = self._reformatter.reformat(frame, size, size, "rgb24", interpolation="BILINEAR", threads=1)
        picture = upright(squashed.to_ndarray(), matrix)
        if self._out is None:
            self._out = np.empty((sum(map(len, self.rows.values())), *picture.shape), np.uint8)
        if picture.shape != self._out.shape[1:]:
            height, width = picture.shape[:2]
            raise SampleError("decode", f"frame {index} is {width}x{height}, unlike the frames before it")
        for row in self.rows[index]:
            self._out[row] = picture
        self.missing.discard(index)


def _woven(frame: VideoFrame) -> VideoFrame:
    """A copy that is not flagged as interlaced: swscale would squash each of the two fields by itself."""
    copy = VideoFrame(frame.width, frame.height, frame.format.name)
    for there, here in zip(copy.planes, frame.planes, strict=True):
        rows, given = (np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in (there, here))
        width = min(there.line_size, here.line_size)
        rows[:, :width] = given[: len(rows), :width]
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    return copy
