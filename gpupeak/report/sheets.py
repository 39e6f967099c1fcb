"""What does one sample look like? Its chosen frames in order, under the curve of its action units.

A `Sheet` is drawn as a picture (`to_png`) or for a terminal (`to_terminal`); `page` lays it out as HTML. Videos are
decoded in the processes that decode for `extract`, so that one which crashes libav costs its sheet. Needs Pillow, of
the extra `report`.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from gpupeak.decode.faces import open_faces
from gpupeak.decode.libav import decode_clip
from gpupeak.decode.planning import plan_frames
from gpupeak.decode.pool import WorkerPool
from gpupeak.errors import ConfigError, SampleError
from gpupeak.peaks.reading import Curve, read_curve
from gpupeak.storage.fetching import at_hand
from gpupeak.types import Failed, FramePlan, Sample
from gpupeak.video.container import open_clip

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

__all__ = ["Sheet", "SheetTask", "heights", "read_sheet", "read_sheets", "require", "to_jpeg", "to_png", "to_terminal"]

_Picture: TypeAlias = "npt.NDArray[np.uint8]"
_Points: TypeAlias = "list[tuple[float, float]]"

_A_ROW = 8
_MARGIN, _GAP, _CURVE, _CAPTION = 32, 12, 120, 26  # pixels of the picture
_PAPER, _INK, _MUTED, _LINE, _CHOSEN, _PEAK = "#fbfaf8", "#1c1c1e", "#66666c", "#dedbd4", "#2b5a87", "#c2410c"
_MOST_POINTS = 400
_KITTY_CHUNK = 4096  # bytes of base64 in one escape, the most that kitty's protocol allows
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Sheet:
    """The contact sheet of one sample.

    Args:
        title: what it is called.
        frames: how many frames its video has.
        indices: the chosen ones, ascending, repeats allowed.
        times: when each of them is presented, in seconds; empty for faces, which have no clock.
        pictures: each of them, uint8 RGB `[height, width, 3]`, all of one size; none where they could not be read.
        peak: the frame of its peak, within the video; None if there is none.
        curve: how strong its action units are; None if no file tells.
        remarks: what else is to be known, a line each.
        fault: why there are no pictures; "" where there are.
    """

    title: str
    frames: int
    indices: tuple[int, ...]
    times: tuple[float, ...]
    pictures: tuple[_Picture, ...]
    peak: int | None
    curve: Curve | None
    remarks: tuple[str, ...] = ()
    fault: str = ""

    def captions(self) -> list[str]:
        """What is written below each frame: its number, and its time where there is one."""
        if not self.times:
            return [f"{index}" for index in self.indices]
        return [f"{index} · {seconds:.2f} s" for index, seconds in zip(self.indices, self.times, strict=True)]


def require(*packages: str) -> None:
    """Raise ConfigError, which says what to install, if a package of the extra `report` is not there."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(f"this needs {' and '.join(missing)}: pip install 'gpupeak[report]'")


def read_sheet(
    sample: Sample, indices: Sequence[int], peak: int | None, side: int = 320, remarks: Sequence[str] = ()
) -> Sheet:
    """Decode frames `indices` of a sample's video, at most `side` pixels wide or high, and read its curve.

    Raises:
        SampleError: the video is not there, has no such frame or cannot be decoded.
    """
    if sample.video is None:
        raise SampleError("find", "no video file of this name")
    with at_hand(sample):
        return _read_sheet(sample, sample.video, indices, peak, side, remarks)


def _read_sheet(
    sample: Sample, video: Path, indices: Sequence[int], peak: int | None, side: int, remarks: Sequence[str]
) -> Sheet:
    from PIL import Image

    wanted = sorted(set(indices))
    times: tuple[float, ...] = ()
    if sample.stream == "frame":
        with open_clip(video) as clip:
            # Squashed to a square while decoding, so that a large video costs no more memory than a small one.
            pixels = decode_clip(clip, wanted, size=side)
            width, height = (clip.width, clip.height) if clip.rotation % 180 == 0 else (clip.height, clip.width)
            frames, seconds = clip.frames, clip.times
            times = tuple(seconds[index] for index in indices)
    else:
        faces = open_faces(video)
        frames, (height, width) = len(faces), faces.shape[1:3]
        if wanted[-1] >= frames:
            raise SampleError("decode", f"face {wanted[-1]} planned, file has {frames}")
        pixels = faces[wanted][..., ::-1]  # as OpenCV wrote them: BGR
    scale = side / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = {i: np.asarray(Image.fromarray(p).resize(size)) for i, p in zip(wanted, pixels, strict=True)}
    return Sheet(
        title=str(sample),
        frames=frames,
        indices=tuple(indices),
        times=times,
        pictures=tuple(resized[index] for index in indices),
        peak=None if peak is None else min(peak, frames - 1),
        # Faces are numbered as they were cut out, action units by the frames of the video.
        curve=read_curve(sample.name, sample.au_dirs) if sample.stream == "frame" else None,
        remarks=tuple(remarks),
    )


@dataclass(frozen=True, slots=True)
class SheetTask:
    """A sheet that a worker is to read: of `indices`, around `peak`; without any, of what would be chosen now."""

    sample: Sample
    indices: tuple[int, ...] = ()
    peak: int | None = None
    side: int = 320
    remarks: tuple[str, ...] = ()

    def __call__(self) -> Sheet:
        indices, peak, remarks = self.indices, self.peak, self.remarks
        if not indices:
            plan = _chosen(self.sample)
            indices, peak = plan.indices, None if plan.peak is None else plan.peak.index
            remarks = (*remarks, "no manifest tells its frames: these would be chosen now")
        return read_sheet(self.sample, indices, peak, self.side, remarks)


def _chosen(sample: Sample) -> FramePlan:
    if sample.video is None:
        raise SampleError("find", "no video file of this name")
    if sample.stream != "frame":
        return plan_frames(sample, len(open_faces(sample.video)), "faces")
    with open_clip(sample.video) as clip:
        return plan_frames(sample, clip.frames, clip.codec)


def read_sheets(
    tasks: Sequence[SheetTask], workers: int = 1, time_limit: float = 120.0
) -> Iterator[tuple[Sample, Sheet | Failed]]:
    """Read sheets in at most `workers` processes, each within `time_limit` seconds; yielded as they are done.

    Raises:
        RunError: the processes cannot be started.
    """
    pool = WorkerPool(min(workers, len(tasks)), n=1, size=1, time_limit=time_limit, held=0)
    with contextlib.closing(pool):
        for done in pool.perform(tasks):
            yield (done.sample, done if isinstance(done, Failed) else done.value)


def heights(curve: Curve, frames: int, most: int = _MOST_POINTS) -> list[_Points]:
    """The curve as lines of points (x, y), both from 0 to 1: x along the clip, y a share of its largest value.

    A line ends where frames have no face. Of a clip longer than `most` frames, each point is the
    largest of a few.
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


def to_jpeg(picture: _Picture, quality: int = 80) -> bytes:
    """A picture, uint8 RGB `[height, width, 3]`, as JPEG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def to_png(sheet: Sheet) -> bytes:
    """The sheet as one picture, PNG: title, curve, frames with their numbers and times."""
    file = io.BytesIO()
    _painted(sheet).save(file, "PNG", optimize=True)
    return file.getvalue()


def _painted(sheet: Sheet) -> Image:
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
    last = str(sheet.frames - 1)
    draw.text((_MARGIN + width - draw.textlength(last, small), top + _CURVE + 8), last, _MUTED, small)
    for number, (index, picture, caption) in enumerate(
        zip(sheet.indices, sheet.pictures, sheet.captions(), strict=True)
    ):
        x, y = _MARGIN + number % across * (wide + _GAP), below + number // across * (high + _CAPTION + _GAP)
        image.paste(Image.fromarray(picture), (x, y))
        colour = _PEAK if index == sheet.peak else _INK
        if index == sheet.peak:
            draw.rectangle((x - 3, y - 3, x + wide + 2, y + high + 2), outline=_PEAK, width=3)
        draw.text((x, y + high + 5), f"{caption} peak" if index == sheet.peak else caption, colour, small)
    return image


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


def to_terminal(sheet: Sheet, columns: int, environment: Mapping[str, str]) -> str:
    """What a terminal of that many columns shows the sheet by: a picture where it says that it can, else blocks.

    Kitty's protocol and iTerm2's are known, by the variables that these terminals and those that
    speak as they do set in `environment`; not inside of tmux and screen, which keep pictures to themselves.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    inside = "TMUX" in environment or term.startswith(("tmux", "screen"))
    if not inside and (term in ("xterm-kitty", "xterm-ghostty") or "KITTY_WINDOW_ID" in environment):
        return _kitty(to_png(sheet), columns)
    if not inside and (program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2"):
        png = to_png(sheet)
        return f"\x1b]1337;File=inline=1;size={len(png)};width=100%:{base64.b64encode(png).decode()}\a\n"
    return "\n".join([*_blocks(sheet, columns), ""])


def _kitty(png: bytes, columns: int) -> str:
    data = base64.b64encode(png).decode()
    chunks = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
    keys = [f"a=T,f=100,c={columns},m=1", *["m=1"] * (len(chunks) - 2), "m=0"]
    if len(chunks) == 1:
        keys = [f"a=T,f=100,c={columns},m=0"]
    return "".join(f"\x1b_G{key};{chunk}\x1b\\" for key, chunk in zip(keys, chunks, strict=True)) + "\n"


def _blocks(sheet: Sheet, columns: int) -> Iterator[str]:
    """Half blocks, each two pixels above each other, in 24-bit colours; the curve as bars."""
    from PIL import Image

    columns = max(min(columns, 160), 16)
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
    captions = [f"{c} peak" if i == sheet.peak else c for i, c in zip(sheet.indices, sheet.captions(), strict=True)]
    for start in range(0, len(small), across):
        for line in range(lines):
            pair = [picture[2 * line : 2 * line + 2] for picture in small[start : start + across]]
            yield " ".join("".join(map(_half, upper, lower)) + "\x1b[0m" for upper, lower in pair)
        yield " ".join(caption[:wide].ljust(wide) for caption in captions[start : start + across]).rstrip()


def _half(upper: npt.NDArray[np.uint8], lower: npt.NDArray[np.uint8]) -> str:
    (r, g, b), (R, G, B) = upper.tolist(), lower.tolist()
    return f"\x1b[38;2;{r};{g};{b};48;2;{R};{G};{B}m▀"
