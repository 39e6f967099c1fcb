"""What does the demo extract from? Clips of a drawn face, laid out as MER-UniBench is.

Each clip is drawn around its peak, so the peak is known, and the action-unit files beside the clips, of every kind
that a peak is read from, tell it in their own ways. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt

FPS = 25
HEIGHT, WIDTH = 360, 640
_RISE = 9.0  # frames: the standard deviation of the bump that an expression is, 0.36 s


@dataclass(frozen=True, slots=True)
class Expression:
    """A face at its peak: how far its parts have moved, in pixels, and its action units, from 0 to 5."""

    emotion: str
    units: Mapping[str, float]
    corners: float = 0.0  # of the mouth, up
    opening: float = 0.0  # between the lips
    brows: float = 0.0  # up
    frown: float = 0.0  # inner ends of the brows, down
    lids: float = 0.0  # apart


_SMILE = Expression("happy", {"AU06_r": 2.9, "AU12_r": 3.7, "AU25_r": 1.6}, corners=17, opening=9, brows=2, lids=-3)
_ASTONISHED = {"AU01_r": 3.1, "AU02_r": 2.6, "AU05_r": 2.2, "AU25_r": 2.4, "AU26_r": 3.3}
_SURPRISE = Expression("surprise", _ASTONISHED, opening=34, brows=15, lids=5)
_FROWN = Expression("angry", {"AU04_r": 3.4, "AU07_r": 2.0, "AU15_r": 2.3}, corners=-13, brows=-4, frown=9, lids=-4)
EXPRESSIONS = (_SMILE, _SURPRISE, _FROWN)


@dataclass(frozen=True, slots=True)
class Clip:
    """One sample: `peak` is its 0-based peak frame, `source` the kind of file that tells it, None if none does."""

    dataset: str
    name: str
    frames: int
    peak: int
    expression: Expression
    source: str | None
    fps: int = FPS

    def amount(self, frame: int) -> float:
        """How much of the expression a frame shows: from 0 to 1, which the peak alone reaches."""
        return math.exp(-0.5 * ((frame - self.peak) / _RISE) ** 2)

    def units(self, frame: int) -> dict[str, float]:
        """A frame's action units, in hundredths as OpenFace gives them."""
        return {unit: round(self.amount(frame) * most, 2) for unit, most in self.expression.units.items()}


CLIPS = (
    Clip("mer2023", "sample_00000000", 100, 61, _SMILE, "au_info"),
    Clip("mer2023", "sample_00000001", 88, 30, _SURPRISE, "merr_data"),
    Clip("mer2023", "sample_00000002", 75, 40, _FROWN, None),
    Clip("iemocap", "Ses05F_impro01_F000", 92, 70, _SURPRISE, "openface"),
    Clip("iemocap", "Ses05M_script01_1_M003", 80, 22, _SMILE, "per_frame"),
)

_VIDEOS = {"mer2023": "mer2023-dataset-process/video/{}.mp4", "iemocap": "iemocap-process/subvideo-tgt/{}.avi"}
_AU_DIRECTORIES = {"mer2023": "MER2023", "iemocap": "IEMOCAPFour"}
CONFIG = """\
# The demo's datasets are smaller than the ones whose names they bear.

[datasets.mer2023]
expected = 3

[datasets.iemocap]
expected = 2
"""


@dataclass(frozen=True, slots=True)
class DemoCorpus:
    """What `make_corpus` made, as the arguments of a run over it."""

    datasets: tuple[str, ...]
    dataset_root: Path
    mer_factory_output: Path
    config_file: Path


def make_corpus(root: Path) -> DemoCorpus:
    """Draw and encode `CLIPS`, and write their label and action-unit files, below `root`."""
    corpus = DemoCorpus(tuple(_VIDEOS), root / "dataset", root / "mer-factory-output", root / "gpupeak.toml")
    root.mkdir(parents=True, exist_ok=True)
    corpus.config_file.write_text(CONFIG)  # first, so that even a corpus cut short is known for one
    for number, clip in enumerate(CLIPS):
        _encode(draw_clip(clip, seed=number), corpus.dataset_root / _VIDEOS[clip.dataset].format(clip.name))
        if clip.source is not None:
            _write_peak(clip, corpus.mer_factory_output / _AU_DIRECTORIES[clip.dataset])
    _write_labels(corpus.dataset_root)
    return corpus


def _encode(pictures: Iterator[npt.NDArray[np.uint8]], path: Path) -> None:
    """H.264 with three B frames in a row for .mp4; MPEG-4 Part 2, as in IEMOCAP, for .avi."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        if path.suffix == ".mp4":
            options = {"preset": "veryfast", "crf": "23", "g": "48", "bf": "3", "b_strategy": "0"}
            stream = container.add_stream("libx264", rate=FPS, options=options)
        else:
            stream = container.add_stream("mpeg4", rate=FPS, options={"b": "600k", "g": "24"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_labels(dataset_root: Path) -> None:
    """Under each key a zero-dimensional object array, pickled: `{sample: {"emo": ..., "val": ...}}`."""

    def labels(dataset: str, **emotions: str) -> npt.NDArray[np.object_]:
        emotions |= {clip.name: clip.expression.emotion for clip in CLIPS if clip.dataset == dataset}
        return np.array({name: {"emo": emotion, "val": -10} for name, emotion in emotions.items()}, dtype=object)

    test, train = labels("mer2023"), labels("", samplenew_00000000="neutral")
    np.savez(dataset_root / "mer2023-dataset-process/label-6way.npz", test1_corpus=test, train_corpus=train)
    # One list holds the whole of IEMOCAP; its test set is the fifth session.
    whole = labels("iemocap", Ses01F_impro01_F000="neutral", Ses04M_script03_2_M041="sad")
    np.savez(dataset_root / "iemocap-process/label_4way.npz", whole_corpus=whole)


def au_info(frames: int, peak: int) -> dict[str, object]:
    """MER-Factory with `au_info`: counted from 0."""
    spot = {"peak_index": peak, "frames_before_peak": peak, "frames_after_peak": frames - 1 - peak}
    return {"au_info": {"total_frames": frames, "peak_frames": [spot]}}


def per_frame(clip: Clip) -> dict[str, object]:
    """MER-Factory's action units of every frame: counted from 1; no frame is marked as the peak."""
    units = enumerate(map(clip.units, range(clip.frames)), 1)
    frames = [{"frame": number, "active_aus": active, "is_peak_frame": False} for number, active in units]
    return {"per_frame_au_descriptions": frames}


def write_json(clip: Clip, directory: Path, kind: str, content: Mapping[str, object]) -> None:
    """Write `<name>/<name>_<kind>.json` below `directory`."""
    path = directory / clip.name / f"{clip.name}_{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"video_id": clip.name, **content}, indent=1))


def write_openface(clip: Clip, directory: Path) -> None:
    """OpenFace's `<name>.csv`: counted from 1, a space before every cell but the first of a line, names included."""
    units = [f"AU{unit:02}_r" for unit in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)]
    lines = [", ".join(("frame", "face_id", "timestamp", "confidence", "success", *units))]
    for frame in range(clip.frames):
        active = clip.units(frame)
        cells = (f"{active.get(unit, 0):.2f}" for unit in units)
        lines.append(", ".join((str(frame + 1), "0", f"{frame / clip.fps:.3f}", "0.98", "1", *cells)))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{clip.name}.csv").write_text("\n".join(lines) + "\n")


def _write_peak(clip: Clip, directory: Path) -> None:
    if clip.source == "openface":
        write_openface(clip, directory)
    elif clip.source == "merr_data":  # counted from 1
        info = {"frame_number": clip.peak + 1, "timestamp": clip.peak / clip.fps}
        write_json(clip, directory, "merr_data", {"overall_peak_frame_info": info})
    else:
        content = per_frame(clip) if clip.source == "per_frame" else au_info(clip.frames, clip.peak)
        write_json(clip, directory, "au_analysis", content)


# Drawing. A shape is painted by coverage, the share of each pixel that lies within it: edges come out smooth.

_Image: TypeAlias = npt.NDArray[np.floating[Any]]
_Colour: TypeAlias = npt.ArrayLike  # red, green, blue

_HAIR, _SKIN = (58, 40, 32), (226, 180, 150)
_EYE, _IRIS, _LIPS, _MOUTH = (245, 245, 242), (52, 66, 84), (150, 58, 62), (58, 18, 24)


def draw_clip(clip: Clip, seed: int = 0) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield a clip's frames, uint8 RGB `[360, 640, 3]`: a face before a wall, and a little camera noise."""
    random = np.random.default_rng(seed)
    wall = _wall(random)
    noise = random.normal(0, 2, (HEIGHT + 32, WIDTH + 32, 1)).astype(np.float32)
    for frame in range(clip.frames):
        # The head sways by a few pixels, slowly: what moves most is the expression.
        x = WIDTH / 2 + 5 * math.sin(frame / 17 + seed)
        y = HEIGHT / 2 + 4 + 3 * math.sin(frame / 23 + 2 * seed)
        picture = wall.copy()
        draw_face(picture, x, y, clip.expression, clip.amount(frame))
        top, left = random.integers(0, 32, 2)
        picture += noise[top : top + HEIGHT, left : left + WIDTH]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def _wall(random: np.random.Generator) -> _Image:
    """A background with texture: it is what tells two neighbouring frames of a face that hardly moves apart."""
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    weave = np.sin(rows / 14 + random.uniform(0, 6)) * np.sin(columns / 11 + random.uniform(0, 6))
    grain = random.normal(0, 5, (HEIGHT, WIDTH))
    wall: _Image = (random.uniform(95, 150, 3) + (10 * weave + grain)[:, :, None]).astype(np.float32)
    return wall


def draw_face(
    picture: _Image, x: float, y: float, expression: Expression, amount: float, scale: float = 1, skin: _Colour = _SKIN
) -> None:
    """Paint `amount` of an expression into a picture, float32 RGB `[height, width, 3]`.

    The face must lie in the picture: from its middle (`x`, `y`), in pixels, it spans 112 to both sides, 160 upwards
    and 155 downwards, times `scale`.
    """
    s = scale
    lift, opening = s * expression.corners * amount, s * expression.opening * amount
    brow, frown, lids = s * expression.brows * amount, s * expression.frown * amount, s * expression.lids * amount
    nose, cheek = np.add(skin, (-18, -24, -20)), np.add(skin, (6, -20, -10))
    _ellipse(picture, x, y - 22 * s, 112 * s, 138 * s, _HAIR)
    _ellipse(picture, x, y + 8 * s + opening / 6, 96 * s, 128 * s + opening / 6, skin)  # the jaw drops with the mouth
    _ellipse(picture, x, y + 22 * s, 10 * s, 7 * s, nose)
    for side in (-1, 1):
        _ellipse(picture, x + 52 * s * side, y + 34 * s - lift / 3, 17 * s, 12 * s, cheek)
        eye = x + 38 * s * side
        _ellipse(picture, eye, y - 18 * s, 17 * s, 9 * s + lids, _EYE)
        _ellipse(picture, eye, y - 18 * s, 7 * s, min(7 * s, 9 * s + lids), _IRIS)
        left, u = _across(eye, 21 * s)
        inward = (1 - side * u) / 2  # 1 at the brow's inner end, 0 at the outer
        arch = y - 47 * s - brow + frown * inward - 4 * s * (1 - u * u)
        _band(picture, left, arch - 3 * s, arch + 3 * s, _HAIR)
    left, u = _across(x, 38 * s + lift / 3 - opening / 4)
    middle, apart = y + 70 * s + lift * (0.5 - u * u), opening / 2 * (1 - u * u)
    _band(picture, left, middle - apart - 4 * s, middle + apart + 4 * s, _LIPS)
    _band(picture, left, middle - apart, middle + apart, _MOUTH)


def _across(x: float, width: float) -> tuple[int, _Image]:
    """The first pixel column within `width` of `x`, and those columns as positions from -1 to 1."""
    columns = np.arange(math.ceil(x - width), math.floor(x + width) + 1)
    return int(columns[0]), ((columns - x) / width).astype(np.float32)


def _ellipse(picture: _Image, x: float, y: float, rx: float, ry: float, colour: _Colour) -> None:
    top, bottom, left, right = int(y - ry) - 1, int(y + ry) + 3, int(x - rx) - 1, int(x + rx) + 3
    rows, columns = np.ogrid[top:bottom, left:right]
    radius = np.sqrt(((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2)
    _paint(picture[top:bottom, left:right], ((1 - radius) * min(rx, ry)).astype(np.float32), colour)


def _band(picture: _Image, left: int, upper: _Image, lower: _Image, colour: _Colour) -> None:
    """Fill what lies between two curves, each given as a row for every column from `left` on."""
    top, bottom = int(upper.min()) - 1, int(lower.max()) + 3
    rows = np.arange(top, bottom, dtype=np.float32)[:, None]
    _paint(picture[top:bottom, left : left + len(upper)], np.minimum(rows - upper, lower - rows), colour)


def _paint(window: _Image, inside: _Image, colour: _Colour) -> None:
    """Blend `colour` in; `inside` is how far within the shape each pixel's centre lies, in pixels."""
    coverage = np.clip(inside + 0.5, 0, 1)[:, :, None]
    window += coverage * (np.asarray(colour, np.float32) - window)
