"""What does the GPU check decode? The nine test sets in small: drawn clips, as many a set as it has samples.

    python bench/gpu_corpus.py                  prints the mix

No copy of the nine sets was at hand, but 31 public clips of them and of DFEW: H.264, 4:2:0 and progressive, with one
key frame and two B frames. MEASURED is what those tell, ASSUMED what they do not. What the pictures show is drawn:
moving waves and grain, the number of each frame along the top, so that it can be read off whatever was decoded.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from record import Row, cores

from gpupeak.types import Sample, SamplingRule

_MOVIE, _WIDE, _PHONE, _SMALL, _DVD = (1920, 1080), (1280, 720), (640, 360), (480, 272), (720, 480)
_MER = (  # of nineteen clips of MER2023 and MER2024; few have the size that is coded, whole blocks of 16x16
    *((672, 378), (720, 404), _WIDE, (672, 378), (960, 544), (768, 324), _MOVIE),
    *((672, 378), (720, 404), (1208, 680), (856, 480), (672, 378), (1442, 1080), (960, 544)),
    *((672, 378), (720, 404), (1104, 622), (720, 528), (1920, 808)),
)
MIX: dict[str, tuple[int, str, int, tuple[tuple[int, int], ...]]] = {
    # data set: samples; codec; frames a second; the sizes of its clips, in turn
    "cmumosei": (4659, "h264", 30, (_WIDE, _PHONE, _SMALL)),
    "meld": (2610, "h264", 24, (_WIDE, _MOVIE)),
    "iemocap": (1241, "mpeg4", 30, (_DVD,)),
    "mer2024": (1169, "h264", 25, _MER[:7]),
    "simsv2": (1034, "h264", 25, (_WIDE, (1920, 800))),
    "cmumosi": (686, "h264", 30, (_WIDE, _PHONE, _SMALL)),
    "ovmerdplus": (532, "h264", 25, _MER[14:]),
    "sims": (457, "h264", 25, (_WIDE, (1920, 800))),
    "mer2023": (411, "h264", 25, _MER[7:14]),
}
FRAMES = (41, 61, 75, 89, 108, 151, 339)  # of the clips of every set, each as frequent
MEASURED = (
    "the sizes, but for cmumosi, simsv2 and ovmerdplus; 41 to 339 frames, 89 in the median; one key frame in H.264"
)
ASSUMED = (
    "how frequent each size and length is, which of them go together; MPEG-4 in iemocap, bit rates, frames a second"
)
TOTAL = sum(samples for samples, *_ in MIX.values())
NAMES = 1500
RULE = SamplingRule("emotion_peak", n=8)
CODING: dict[str, tuple[str, str, dict[str, str]]] = {
    # One GOP a clip, two B frames in a row.
    "h264": (
        *("libx264", ".mp4"),
        {"preset": "veryfast", "crf": "23", "g": "1000", "bf": "2", "b_strategy": "0", "sc_threshold": "0"},
    ),
    # libavcodec's default Simple Profile: no B frames, and a key frame every 12.
    "mpeg4": ("mpeg4", ".avi", {"b": "1200k", "g": "12"}),
    # Without hidden pictures, which NVDEC would take for others.
    "vp9": (
        "libvpx-vp9",
        ".mp4",
        {"g": "250", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0", "b": "2M"},
    ),
}


@dataclass(frozen=True)
class Clip:
    """A clip to draw; `rotation` is the counter-clockwise turn in degrees that its container asks for."""

    name: str
    frames: int
    size: tuple[int, int]
    fps: int = 25
    codec: str = "h264"
    bt709: bool = False
    rotation: int = 0


def corpus(small: bool) -> dict[str, list[Clip]]:
    """The clips of each data set; in small, of VP9, which DALI decodes on a CPU."""
    if small:
        sizes = ((320, 240), (240, 320))
        tiny = [Clip(f"tiny-{i}", 24 + i, sizes[i % 2], codec="vp9") for i in range(4)]
        return {"cmumosei": tiny[:3], "meld": tiny[3:]}
    return {
        dataset: [
            Clip(f"{dataset}-{at}", FRAMES[(3 * at + shift) % len(FRAMES)], sizes[at % len(sizes)], fps, codec)
            for at in range(len(FRAMES))
        ]
        for shift, (dataset, (_, codec, fps, sizes)) in enumerate(MIX.items())
    }


def special(small: bool) -> list[Clip]:
    """What a hardware decoder gets wrong by itself: tagged colours, turned pictures, a coded size that is not shown (of
    DFEW), fewer frames than asked for."""
    codec, size = ("vp9", (320, 240)) if small else ("h264", _WIDE)
    turned = [Clip(f"turned-{turn}", 40, size, codec=codec, rotation=turn) for turn in (90, 180, 270)]
    return [
        *turned,
        Clip("bt709", 40, size, codec=codec, bt709=True),
        Clip("bt709-turned-90", 40, size, codec=codec, bt709=True, rotation=90),
        Clip("cropped", 40, (312, 200) if small else (712, 400), codec=codec),
        Clip("three-frames", 3, size, codec=codec),
    ]


@dataclass(frozen=True)
class Corpus:
    """The clips on disk, as they were drawn below `root`; features of samples go to a new directory at every call."""

    root: Path
    small: bool
    drawn: Row

    @property
    def count(self) -> int:
        return 8 if self.small else NAMES

    def samples(self, every: int = 1) -> list[Sample]:
        """Of every set its share, set after set, its clips in turn; or one of so many of them."""
        sets, found, reached = corpus(self.small), list[Sample](), 0
        total, features = sum(MIX[dataset][0] for dataset in sets), self._features()
        for dataset, clips in sets.items():
            reached += MIX[dataset][0]
            for number in range(round(self.count * reached / total) - len(found)):
                clip, name = clips[number % len(clips)], f"{dataset}-{number:05d}"
                found.append(_linked(self.root, "videos", name, clip, features))
        return found[::every]

    def clips(self, is_special: bool = False) -> list[Sample]:
        """Every clip once, or the special ones."""
        sets, features = {"": special(self.small)} if is_special else corpus(self.small), self._features()
        return [_linked(self.root, "once", clip.name, clip, features) for of_set in sets.values() for clip in of_set]

    def _features(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="features-", dir=self.root))


def sample(root: Path, clip: Clip, name: str = "") -> Sample:
    """A sample of one clip by itself, which is drawn if it is not there."""
    (root / "clips").mkdir(parents=True, exist_ok=True)
    if not clip_file(root, clip).exists():
        write_clip(root, clip)
    return _linked(root, "few", name or clip.name, clip, Path(tempfile.mkdtemp(prefix="features-", dir=root)))


def _linked(root: Path, directory: str, name: str, clip: Clip, features: Path) -> Sample:
    file = clip_file(root, clip)
    video, peak = root / directory / f"{name}{file.suffix}", root / "aus" / f"{name}_au_analysis.json"
    for source, link in ((file, video), (file.with_suffix(".json"), peak)):
        if not link.exists():
            link.parent.mkdir(exist_ok=True)
            link.hardlink_to(source)
    return Sample("bench", name, video, (peak.parent,), RULE, features / f"{name}.npy")


def clip_file(root: Path, clip: Clip) -> Path:
    return root / "clips" / f"{clip.name}{CODING[clip.codec][1]}"


def write_clip(root: Path, clip: Clip) -> int:
    """Draw and encode one clip, put the file that tells its peak beside it, and return its bytes."""
    from workload import encode  # needs PyAV, which pictures by themselves do not

    from gpupeak.demo.corpus import au_info

    path = clip_file(root, clip)
    encoder, _, options = CODING[clip.codec]
    seed = zlib.crc32(clip.name.encode())
    upright = clip.size if clip.rotation % 180 == 0 else (clip.size[1], clip.size[0])
    drawn = pictures(upright, clip.frames, seed)
    coded = (np.ascontiguousarray(np.rot90(picture, -clip.rotation // 90)) for picture in drawn)
    matrix = 1 if clip.bt709 else None  # ITU-T H.273
    encode(path, coded, encoder, options, size=clip.size, fps=clip.fps, matrix=matrix)
    if clip.rotation:
        _rotate(path, clip.rotation)
    path.with_suffix(".json").write_text(json.dumps(au_info(clip.frames, seed % clip.frames)))
    return path.stat().st_size


def _rotate(path: Path, rotation: int) -> None:
    """Write the turn into the display matrix of an MP4 (ISO/IEC 14496-12, tkhd)."""
    a, b = {90: (0, -1), 180: (-1, 0), 270: (0, 1)}[rotation]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


_BITS = 9  # of a frame's number, each 1/16 of the picture's width


def pictures(size: tuple[int, int], frames: int, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    """RGB pictures `[height, width, 3]`: waves that move by 1/80 of the width a frame, grain, a number."""
    width, height = size
    random = np.random.default_rng(seed)
    rows, columns = np.arange(height)[:, None] / height, np.arange(width)[None] / width
    scene = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        level, phases, pace = random.uniform(30, 220), random.uniform(0, 1, 5), random.integers(1, 8, (5, 2))
        # Whole numbers of waves: the picture goes on where it ends, and can be rolled around.
        waves = [np.cos(2 * np.pi * (y * rows + x * columns + p)) for (y, x), p in zip(pace, phases, strict=True)]
        scene[..., channel] = np.clip(level + 30 * np.sum(waves, 0), 16, 230).astype(np.uint8)
    grain = random.integers(0, 25, scene.shape, np.uint8)  # at crf 23: 0.4, 1.4, 4.5 Mbit/s at 360p, 720p, 1080p
    for number in range(frames):
        picture = np.roll(scene, (number * height // 160, number * width // 80), (0, 1))
        picture += np.roll(grain, tuple(random.integers(0, (height, width))), (0, 1))
        for bit in range(_BITS):
            picture[: height // 8, bit * width // 16 : (bit + 1) * width // 16] = 235 * (number >> bit & 1)
        yield picture


def number_of(picture: npt.NDArray[np.uint8]) -> int:
    """The number that is drawn into a picture, RGB `[size, size, 3]`, of whatever size."""
    size = len(picture)
    middles = [(2 * bit + 1) * size // 32 for bit in range(_BITS)]
    return sum(int(picture[size // 16, middle].mean() > 127) << bit for bit, middle in enumerate(middles))


def draw(root: Path, small: bool) -> Row:
    """Draw all clips, on every core, in processes that hold no GPU; how many they are, their bytes and seconds."""
    command = [sys.executable, __file__, str(root), *["small"] * small]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    row: Row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)
    return row


def _drawn(root: Path, small: bool) -> Row:
    (root / "clips").mkdir(parents=True, exist_ok=True)
    clips = [clip for of_set in corpus(small).values() for clip in of_set] + special(small)
    clips.sort(key=lambda clip: -clip.frames * clip.size[0] * clip.size[1])  # the longest first, to end together
    with multiprocessing.Pool(cores()) as pool:
        written = pool.map(partial(write_clip, root), clips, chunksize=1)
    return {"clips": len(clips), "bytes": sum(written), "seconds": sum(clip.frames / clip.fps for clip in clips)}


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(_drawn(Path(sys.argv[1]), "small" in sys.argv)))
        sys.exit()
    for dataset, of_set in corpus(small=False).items():
        told = ", ".join(f"{clip.frames} of {clip.size[0]}x{clip.size[1]}" for clip in of_set)
        print(f"{MIX[dataset][0]:5} {dataset}: {of_set[0].codec}, {of_set[0].fps}/s, {told}")
    print(f"measured: {MEASURED}\nassumed: {ASSUMED}")
