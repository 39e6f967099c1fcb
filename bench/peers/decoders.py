"""How would someone without gpupeak get a few frames of a video, squashed to 224x224? As fast as each library can.

What bounds all of them is libavcodec; they differ in the frames that they give it to decode. Each reads the
file anew, as a data loader does, uses one thread, and is set as its documentation advises for this job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

SIDE = 224
Pixels: TypeAlias = "npt.NDArray[np.uint8]"
Decode: TypeAlias = Callable[[Path, Sequence[int]], Pixels]
"""File and ascending frame numbers -> uint8 RGB `[n, 224, 224, 3]`."""


def peers() -> tuple[dict[str, Decode], dict[str, str]]:
    """Those that can be used here, by name, and for each of the others why it cannot."""
    found: dict[str, Decode] = {"PyAV seeking": pyav_seeking, "PyAV sequential": pyav_sequential}
    missing: dict[str, str] = {}
    for name, make in (("decord", _decord), ("torchcodec", _torchcodec), ("OpenCV", _opencv)):
        try:
            found |= make()
        except (ImportError, OSError, RuntimeError) as error:  # noqa: PERF203 - three of them
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    return found, missing


def pyav_sequential(path: Path, indices: Sequence[int]) -> Pixels:
    """Decode from the first frame to the last one wanted."""
    wanted, squash = set(indices), Squash()
    pictures: dict[int, Pixels] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                pictures[number] = squash(frame)
                if len(pictures) == len(wanted):
                    break
    return np.stack([pictures[index] for index in indices])


def pyav_seeking(path: Path, indices: Sequence[int]) -> Pixels:
    """Seek to the key frame before each frame, unless decoding on comes by there sooner; frames go by their times."""
    squash, pictures = Squash(), list[Pixels]()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate, base, entries = stream.average_rate, stream.time_base, stream.index_entries
        if not rate or not base:
            raise ValueError("no frame rate: the times of its frames are not known")
        frames: Iterator[VideoFrame] = container.decode(stream)
        frame = next(frames)
        for index in indices:
            time = (stream.start_time or 0) + round(index / rate / base)
            entry = entries.search_timestamp(time, backward=True)
            if entry >= 0 and entries[entry].timestamp > (frame.pts or 0):
                container.seek(time, stream=stream)
                frames = container.decode(stream)
                frame = next(frames)
            # Half a frame: a container may round its times.
            while frame.pts is None or (time - frame.pts) * base * rate * 2 > 1:
                frame = next(frames)
            pictures.append(squash(frame))
    return np.stack(pictures)


class Squash:
    """One frame to RGB `[224, 224, 3]`, by swscale's bilinear filter."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Pixels:
        squashed = self._reformatter.reformat(frame, SIDE, SIDE, "rgb24", interpolation="BILINEAR", threads=1)
        picture: Pixels = squashed.to_ndarray()  # type: ignore[assignment]
        return picture


def _decord() -> dict[str, Decode]:
    import decord

    def decode(path: Path, indices: Sequence[int]) -> Pixels:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), width=SIDE, height=SIDE, num_threads=1)
        return reader.get_batch(list(indices)).asnumpy()  # type: ignore[no-any-return]

    return {"decord": decode}


def _torchcodec() -> dict[str, Decode]:
    # Where the Makefile lends it PyAV's libraries, these find what they need in turn because `av` was imported before.
    import torchcodec
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    if torchcodec.ffmpeg_major_version is None:
        raise RuntimeError("torchcodec finds no shared libraries of FFmpeg")

    def decode(path: Path, indices: Sequence[int], mode: str) -> Pixels:
        set_up = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "transforms": [Resize((SIDE, SIDE))]}
        decoder = VideoDecoder(path, seek_mode=mode, **set_up)
        return decoder.get_frames_at(list(indices)).data.numpy()  # type: ignore[no-any-return]

    return {
        # Without its scan of the file, which is what its documentation advises where speed counts.
        "torchcodec": lambda path, indices: decode(path, indices, "approximate"),
        "torchcodec exact": lambda path, indices: decode(path, indices, "exact"),
    }


def _opencv() -> dict[str, Decode]:
    import cv2

    cv2.setNumThreads(1)

    def retrieved(capture: cv2.VideoCapture) -> Pixels:
        good, picture = capture.retrieve()
        if not good:
            raise ValueError("a frame could not be decoded")
        # Of its filters the one that averages as swscale's does, and the fastest that does not alias.
        squashed = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(squashed, cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]

    def opened(path: Path) -> cv2.VideoCapture:
        return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])

    def seeking(path: Path, indices: Sequence[int]) -> Pixels:
        capture = opened(path)
        pictures = []
        for index in indices:
            capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            capture.grab()
            pictures.append(retrieved(capture))
        return np.stack(pictures)

    def grabbing(path: Path, indices: Sequence[int]) -> Pixels:
        capture, at = opened(path), -1
        pictures = []
        for index in indices:
            while at < index and capture.grab():
                at += 1
            pictures.append(retrieved(capture))
        return np.stack(pictures)

    return {"OpenCV seeking": seeking, "OpenCV grabbing": grabbing}
