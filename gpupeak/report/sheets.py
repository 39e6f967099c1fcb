"""What does one sample look like? Its chosen frames in order, under the curve of its action units.

Videos are decoded in the processes that decode for `extract`, so that one which crashes libav costs its sheet. Needs
Pillow, of the extra `report`.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from gpupeak.decode.faces import open_faces
from gpupeak.decode.libav import Recounted, decode_clip
from gpupeak.decode.planning import plan_frames, video_of
from gpupeak.decode.pool import WorkerPool
from gpupeak.errors import ConfigError, SampleError
from gpupeak.peaks.reading import Curve, read_curve
from gpupeak.storage.fetching import at_hand
from gpupeak.storage.places import local
from gpupeak.types import Failed, Sample
from gpupeak.video.container import open_clip

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_Picture: TypeAlias = "npt.NDArray[np.uint8]"

_A_ROW = 8
_MARGIN, _GAP, _CURVE, _CAPTION = 32, 12, 120, 26  # pixels of the picture
_PAPER, _INK, _MUTED, _LINE, _CHOSEN, _PEAK = "#fbfaf8", "#1c1c1e", "#66666c", "#dedbd4", "#2b5a87", "#c2410c"
_MOST_POINTS = 400
_FULL_SIZE = 256  # pictures of a sheet; more of them are smaller, and take no more memory
_MOST_PICTURES = 8192
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Sheet:
    """The contact sheet of one sample.

    `indices` of its `frames` were chosen, ascending, repeats allowed; `times` are theirs in seconds, empty for faces;
    `pictures` are uint8 RGB `[height, width, 3]` of one size, none where there is a `fault`. `peak` is a frame within
    the video, `curve` how strong its action units are.
    """

    title: str
    frames: int
    indices: tuple[int, ...]
    times: tuple[float, ...] = ()
    pictures: tuple[_Picture, ...] = ()
    peak: int | None = None
    curve: Curve | None = None
    remarks: tuple[str, ...] = ()
    fault: str = ""

    def captions(self) -> list[str]:
        """What is written below each frame: its number, its time where there is one, and whether it is the peak."""
        times = [f" · {seconds:.2f} s" for seconds in self.times] or [""] * len(self.indices)
        peaks = [" peak" if index == self.peak else "" for index in self.indices]
        return [f"{index}{time}{peak}" for index, time, peak in zip(self.indices, times, peaks, strict=True)]


def require(*packages: str) -> None:
    """Raise ConfigError, which says what to install, if a package of the extra `report` is not there."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(f"this needs {' and '.join(missing)}: pip install 'gpupeak[report]'")


@dataclass(frozen=True, slots=True)
class SheetTask:
    """A sheet to be read: of frames `indices`, around `peak`; without any, of what would be chosen now.

    Its pictures are at most `side` pixels wide or high, less where there are over 256. Called, it reads the sheet, or
    raises SampleError if the video is not there, has no such frame or cannot be decoded.
    """

    sample: Sample
    indices: tuple[int, ...] = ()
    peak: int | None = None
    side: int = 320
    remarks: tuple[str, ...] = ()

    @property
    def _side(self) -> int:
        return round(self.side * min(1.0, math.sqrt(_FULL_SIZE / self.sample.rule.n)))

    def __call__(self) -> Sheet:
        with at_hand(self.sample) as found:
            return self._read(found.here, local(video_of(found.here)))

    def _read(self, sample: Sample, video: Path) -> Sheet:
        if sample.stream != "frame":
            faces = open_faces(video)
            sheet = self._begun(sample, len(faces), "faces")
            if max(sheet.indices) >= len(faces):
                raise SampleError("decode", f"face {max(sheet.indices)} planned, file has {len(faces)}")
            turned = (faces[index][..., ::-1] for index in sheet.indices)  # as OpenCV wrote them: BGR
            # No curve: faces are numbered as they were cut out, action units by the frames of the video.
            return replace(sheet, pictures=self._resized(turned, faces.shape[2], faces.shape[1]))
        with open_clip(video) as clip:
            sheet = self._begun(sample, clip.frames, clip.codec)
            # Squashed to a square while decoding, so that a large video costs no more memory than a small one.
            try:
                pixels = decode_clip(clip, sheet.indices, size=self._side)
            except Recounted:
                sheet = self._begun(sample, clip.frames, clip.codec)
                pixels = decode_clip(clip, sheet.indices, size=self._side)
            width, height = (clip.width, clip.height) if clip.rotation % 180 == 0 else (clip.height, clip.width)
            times = tuple(clip.times[index] for index in sheet.indices)
            curve = read_curve(sample.name, [local(each) for each in sample.au_dirs], sample.rule)
            return replace(sheet, times=times, pictures=self._resized(pixels, width, height), curve=curve)

    def _begun(self, sample: Sample, frames: int, codec: str) -> Sheet:
        """The sheet without pictures."""
        indices, peak, remarks = self.indices, self.peak, self.remarks
        if not indices:
            plan = plan_frames(sample, frames, codec)
            indices, peak = plan.indices, plan.peak.index if plan.peak else None
            remarks = (*remarks, "no manifest tells its frames: these would be chosen now")
        peak = None if peak is None else min(peak, frames - 1)
        return Sheet(str(sample), frames, indices, peak=peak, remarks=remarks)

    def _resized(self, pixels: Iterable[_Picture], width: int, height: int) -> tuple[_Picture, ...]:
        from PIL import Image

        scale = self._side / max(width, height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return tuple(np.asarray(Image.fromarray(picture).resize(size)) for picture in pixels)


def read_sheets(
    tasks: Sequence[SheetTask], workers: int = 1, time_limit: float = 120.0
) -> Iterator[tuple[Sample, Sheet | Failed]]:
    """Read sheets in at most `workers` processes, each within `time_limit` seconds; yielded as they are done. Raises
    ConfigError if they are too many, RunError if the processes cannot be started."""
    pictures = sum(min(task.sample.rule.n, _FULL_SIZE) for task in tasks)
    if pictures > _MOST_PICTURES:
        told = f"expected at most {_MOST_PICTURES:,}, for they are in memory together; show fewer samples"
        raise ConfigError(f"{len(tasks):,} contact sheets have {pictures:,} pictures, {told}")
    pool = WorkerPool(min(workers, len(tasks)), n=1, size=1, time_limit=time_limit, held=0)
    with contextlib.closing(pool):
        for done in pool.perform(tasks):
            yield (done.sample, done if isinstance(done, Failed) else done.value)


def heights(curve: Curve, frames: int, most: int = _MOST_POINTS) -> list[list[tuple[float, float]]]:
    """The curve as lines of at most `most` points (x, y), from 0 to 1: along the clip, and of its largest value.

    A line ends where frames have no face. Of a longer clip, each point is the largest of a few.
    """
    bins = min(frames, most)
    tops: dict[int, float] = {}
    for frame, value in zip(curve.frames, curve.values, strict=True):
        if frame < frames:
            place = frame * bins // frames
            tops[place] = max(value, tops.get(place, 0.0))
    highest = max(tops.values(), default=0.0) or 1.0
    runs = groupby(enumerate(sorted(tops)), lambda item: item[1] - item[0])  # neighbours keep their distance
    return [[(place / max(bins - 1, 1), tops[place] / highest) for _, place in run] for _, run in runs]


def to_png(sheet: Sheet) -> bytes:
    """The sheet as one picture, PNG: title, curve, frames with their numbers and times."""
    from PIL import Image, ImageDraw, ImageFont

    title, small = ImageFont.load_default(22), ImageFont.load_default(14)
    across = min(len(sheet.pictures), _A_ROW)
    down = -(-len(sheet.pictures) // across)
    high, wide = sheet.pictures[0].shape[:2]
    width = max(across * (wide + _GAP) - _GAP, 480)
    top = _MARGIN + 40 + 20 * len(sheet.remarks)
    below = top + _CURVE + 44
    size = width + 2 * _MARGIN, below + down * (high + _CAPTION + _GAP) + _MARGIN - _GAP
    image = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _MARGIN - 6), sheet.title, _INK, title)
    for row, remark in enumerate(sheet.remarks):
        draw.text((_MARGIN, _MARGIN + 28 + 20 * row), remark, _MUTED, small)
    _paint_curve(draw, sheet, (_MARGIN, top), width)
    draw.text((_MARGIN, top + _CURVE + 8), "0", _MUTED, small)
    draw.text((_MARGIN + width, top + _CURVE + 8), str(sheet.frames - 1), _MUTED, small, anchor="ra")
    frames = zip(sheet.indices, sheet.pictures, sheet.captions(), strict=True)
    for number, (index, picture, caption) in enumerate(frames):
        x, y = _MARGIN + number % across * (wide + _GAP), below + number // across * (high + _CAPTION + _GAP)
        image.paste(Image.fromarray(picture), (x, y))
        colour = _PEAK if index == sheet.peak else _INK
        if index == sheet.peak:
            draw.rectangle((x - 3, y - 3, x + wide + 2, y + high + 2), outline=_PEAK, width=3)
        draw.text((x, y + high + 5), caption, colour, small)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _paint_curve(draw: ImageDraw, sheet: Sheet, corner: tuple[int, int], width: int) -> None:
    left, top = corner
    bottom = top + _CURVE

    def x(frame: int) -> float:
        return left + frame / max(sheet.frames - 1, 1) * width

    draw.line((left, bottom, left + width, bottom), _LINE, 2)
    for index in sheet.indices:
        draw.line((x(index), top, x(index), bottom + 6), _PEAK if index == sheet.peak else "#b7c6d6", 2)
    if sheet.peak is not None:
        draw.line((x(sheet.peak), top - 6, x(sheet.peak), bottom + 6), _PEAK, 3)
    for line in heights(sheet.curve, sheet.frames) if sheet.curve else ():
        points = [(left + along * width, bottom - up * (_CURVE - 8)) for along, up in line]
        if len(points) > 1:
            draw.line(points, _CHOSEN, 3, joint="curve")


def to_terminal(sheet: Sheet, columns: int) -> str:
    """The sheet for a terminal of that many columns: half blocks, two pixels each, in 24-bit colours, under bars."""
    return "\n".join([*_lines(sheet, max(min(columns, 160), 16)), ""])


def _lines(sheet: Sheet, columns: int) -> Iterator[str]:
    from PIL import Image

    if sheet.curve is not None:
        bars = [" "] * columns
        for along, up in (point for line in heights(sheet.curve, sheet.frames, columns) for point in line):
            bars[round(along * (columns - 1))] = _BARS[round(up * 8)]
        yield "".join(bars)
    marks = ["─"] * columns
    for index in (*sheet.indices, *([] if sheet.peak is None else [sheet.peak])):
        marks[round(index / max(sheet.frames - 1, 1) * (columns - 1))] = "▲" if index == sheet.peak else "┴"
    yield "".join(marks)
    across = min(len(sheet.pictures), 4 if columns >= 64 else 2)
    wide = (columns + 1) // across - 1
    high, original = sheet.pictures[0].shape[:2]
    lines = max(1, round(wide * high / original / 2))
    small = [np.asarray(Image.fromarray(picture).resize((wide, 2 * lines))) for picture in sheet.pictures]
    captions = sheet.captions()
    for start in range(0, len(small), across):
        for line in range(lines):
            pair = [picture[2 * line : 2 * line + 2] for picture in small[start : start + across]]
            yield " ".join("".join(map(_half, upper, lower)) + "\x1b[0m" for upper, lower in pair)
        yield " ".join(caption[:wide].ljust(wide) for caption in captions[start : start + across]).rstrip()


def _half(upper: npt.NDArray[np.uint8], lower: npt.NDArray[np.uint8]) -> str:
    (r, g, b), (R, G, B) = upper.tolist(), lower.tolist()
    return f"\x1b[38;2;{r};{g};{b};48;2;{R};{G};{B}m▀"
