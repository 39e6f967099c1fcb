"""What do damaged and hostile videos do to a run? Thousands of them, through plan, inspect and extract.

Each has exactly one outcome in every pass, within the time limit and within the memory that a worker may have.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import av
import psutil
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from clips import KINDS, remux, write_clip, write_kind
from faults.corpus import Scale
from faults.data import mutated_head
from synthetic import SyntheticEncoder
from workload import real_clips

from gpupeak.check.inspect import InspectTask
from gpupeak.config import ExtractConfig
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.worker import MEMORY, Done, Planned
from gpupeak.errors import OUT_OF_MEMORY
from gpupeak.features.npy import is_whole
from gpupeak.features.writer import NpyWriter
from gpupeak.lines.build import Parts
from gpupeak.run import extract
from gpupeak.tally import Observer
from gpupeak.types import Failed, Outcome, Sample, SamplingRule

MUTANTS = {"small": 150, "full": 6000}
SMALL_KINDS = [
    *("h264", "h264_mkv", "h264_ts", "h264_avi", "h264_raw", "h264_fragmented", "h264_edit_list", "hevc_mkv"),
    *("vp8", "vp9_odd", "mpeg4_avi_packed", "mjpeg_avi", "mpeg2_ps", "wmv2", "flv1", "ffv1"),
]
TIME_LIMIT = {"small": 5.0, "full": 10.0}
SLACK_SECONDS = 5.0
"""How much later than the limit an answer may be noted: the machine may be busy."""
_EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x10000, 1 << 24, 1 << 28, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)

# What containers call the fields that tell sizes, counts and times: boxes of ISO/IEC 14496-12 and chunks of AVI, then
# Matroska's EBMLMaxSizeLength, Segment, TimestampScale, Duration, TrackEntry, CodecPrivate, PixelWidth, PixelHeight,
# DefaultDuration, Cluster, Timestamp, SimpleBlock, Cues
_NAMES = [
    *b"mvhd tkhd mdhd elst stsd avc1 hvc1 avcC hvcC vpcC av1C esds stts ctts stss stsz stsc stco".split(),
    *b"trex tfhd tfdt trun avih strh strf idx1 movi 00dc LIST RIFF indx".split(),
    *map(
        bytes.fromhex,
        ["42f3", "18538067", "2ad7b1", "4489", "ae", "63a2", "b0", "ba", "23e383", "1f43b675", "e7", "a3", "1c53bb6b"],
    ),
]
# Decoders that hardly anybody meets, and that a fourcc reaches
_CODES = (
    b"ZMBV CSCD MSZH ZLIB tscc IV31 IV50 cvid rle  8BPS SVQ1 SVQ3 png  tiff mjp2 apcn AVdn Hap1 dvsd VP30 VP60 VP80 "
    b"FLV4 RV40 H263 WMV3 WVC1 MP43 MP42 DIV3 MJPG LJPG LAGS ULRA HFYU FFVH MAGY FPS1 CFHD SHEQ M101 r210 v210 v410 "
    b"UYVY mpg2 mp4v s263 XVID DX50 hev1 av01 vp09 theo TM20 smc  qdrw rpza G2M4 SCPR YLC0 PIM1 CLLC DXTY AASC"
)
_FOURCCS = re.findall(rb"[^ ].{3}", _CODES)
_PLACES = (b"avc1", b"hvc1", b"hev1", b"vp09", b"av01", b"mp4v", b"H264", b"FMP4", b"MJPG", b"WMV2", b"xvid", b"h264")


def mutate(data: bytes, draw: random.Random, others: Sequence[bytes]) -> tuple[bytes, str]:
    """Something else made of the bytes of a video, spliced with `others` at times; and what was done to it."""
    kinds = draw.choices(list(_MUTATIONS), weights=(13, 2, 8, 2), k=draw.choice((1, 1, 2, 3)))
    for kind in kinds:
        data = _MUTATIONS[kind](data, draw, others) if data else data
    return data, "+".join(dict.fromkeys(kinds))


def _span(data: bytes, draw: random.Random) -> tuple[int, int]:
    """A range of it, near the start or the end as often as anywhere, since that is where headers are."""
    length = min(len(data), draw.randint(1, 1 << 15))
    last = len(data) - length
    start = draw.choice((draw.randint(0, last), min(last, draw.randint(0, 2048)), max(0, last - draw.randint(0, 2048))))
    return start, start + length


def _splice(data: bytes, draw: random.Random, others: Sequence[bytes]) -> bytes:
    other = draw.choice(others)
    start, stop = _span(other, draw)
    at, end = _span(data, draw)
    return data[:at] + other[start:stop] + data[draw.choice((at, end)) :]


def _field(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    """An extreme number in or before something that a container has a name for."""
    changed = bytearray(data)
    for _number in range(draw.choice((1, 1, 2, 4))):
        there = [name for name in _NAMES if name in changed]
        if not there:
            return mutated_head(data, draw)
        name = draw.choice(there)
        at = draw.choice([found.start() for found in re.finditer(re.escape(name), changed)])
        at += draw.choice((-4, len(name), len(name) + 4, len(name) + 4 * draw.randrange(24)))
        size = draw.choice((1, 2, 4, 4, 8))
        if 0 <= at <= len(changed) - size:
            number = draw.choice(_EXTREMES) & (256**size - 1)
            order: Literal["big", "little"] = draw.choice(("big", "little"))
            changed[at : at + size] = number.to_bytes(size, order)
    return bytes(changed)


def _other_codec(data: bytes, draw: random.Random, _: Sequence[bytes]) -> bytes:
    there = [place for place in _PLACES if place in data]
    return data.replace(draw.choice(there), draw.choice(_FOURCCS)) if there else mutated_head(data, draw)


_MUTATIONS: dict[str, Callable[[bytes, random.Random, Sequence[bytes]], bytes]] = {
    "damage": lambda data, draw, _: mutated_head(data, draw),
    "splice": _splice,
    "field": _field,
    "codec": _other_codec,
}


def crafted(directory: Path, large: bool) -> Iterator[Path]:
    """Write files that lie about their size, or cost far more than they weigh; `large` adds the slowest to make."""
    small = write_clip(directory / "crafted_base.mp4", frames=12)
    mp4 = small.read_bytes()
    for count in (1 << 20, 16_000_000, 170_000_000, 0xFFFFFFFF):
        yield _written(directory / f"samples_{count}.mp4", declaring(mp4, count))
    for name in (b"stts", b"ctts", b"stsc", b"stco", b"stss", b"elst"):
        for count in (16_000_000, 0x0FFFFFFF, 0xFFFFFFFF):
            yield _written(directory / f"{name.decode()}_{count}.mp4", patched(mp4, name, 4, count))
    yield _written(directory / "time_base_0.mp4", patched(patched(mp4, b"mdhd", 12, 0), b"mvhd", 12, 0))
    yield _written(directory / "no_time_passes.mp4", patched(mp4, b"stts", 12, 0))
    yield _written(directory / "compressed_header.mov", _compressed_header(256 << 20))
    for width, height in ((0, 0), (65535, 65535), (16384, 4097), (65535, 1)):
        changed = bytearray(mp4)  # another size in the sample description; the bitstream keeps its own
        struct.pack_into(">HH", changed, mp4.index(b"avc1", mp4.index(b"stsd")) + 28, width, height)
        yield _written(directory / f"declares_{width}x{height}.mp4", changed)
    jpeg = write_clip(directory / "crafted_base.avi", frames=4, codec="mjpeg", pix_fmt="yuvj420p").read_bytes()
    yield _written(directory / "pictures_65535.avi", re.sub(rb"(?s)(?<=\xff\xc0..\x08)....", b"\xff" * 4, jpeg))
    yield _written(directory / "concatenation.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n")
    yield _written(directory / "playlist.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    yield black(directory / "black_ffv1.mkv", (1, 1), "ffv1", "yuv444p", frames=2)
    yield black(directory / "black_h264.mp4", (16384, 16), "libx264", "yuv420p", frames=2)
    for size in ((1, 16384), (8192, 8192))[: 1 + large]:
        yield black(directory / f"black_png_{size[0]}.mov", size, "png", "rgb24", frames=2)
    wide = (16384, 4096) if large else (4096, 2048)
    bomb = black(directory / "crafted_bomb.mkv", wide, "libx264", "yuv420p", frames=3)
    yield repeated(bomb, directory / "bomb.mkv", 20_000 if large else 2_000)


def _written(path: Path, data: bytes | bytearray) -> Path:
    path.write_bytes(data)
    return path


def patched(mp4: bytes, box: bytes, offset: int, value: int) -> bytes:
    """The number at an offset into a box, counted from its version, replaced in every such box."""
    changed = bytearray(mp4)
    for found in re.finditer(re.escape(box), mp4):
        struct.pack_into(">I", changed, found.end() + offset, value)
    return bytes(changed)


def declaring(mp4: bytes, count: int) -> bytes:
    changed = patched(patched(mp4, b"stsz", 4, 1), b"stsz", 8, count)
    return patched(patched(changed, b"stsc", 12, count), b"stts", 8, count)


def _compressed_header(size: int) -> bytes:
    """QuickTime's compressed header (cmov): zeros that are a thousandth of their size, which is declared as 2 GiB."""

    def box(name: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return struct.pack(">I", 8 + len(body)) + name + body

    packed = zlib.compress(bytes(size), 9)
    movie = box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", struct.pack(">I", 0x7FFFFFF0), packed))
    return box(b"ftyp", b"qt  ", bytes(8)) + box(b"moov", movie) + box(b"mdat", bytes(64))


def black(path: Path, size: tuple[int, int], codec: str, pix_fmt: str, frames: int) -> Path:
    """Write a clip of black frames: next to nothing on the disk."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"preset": "ultrafast"} if codec == "libx264" else {})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        for number in range(frames):
            frame = VideoFrame(*size, pix_fmt)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def repeated(source: Path, path: Path, times: int) -> Path:
    def over(packets: list[Packet[Any]]) -> list[Packet[Any]]:
        last = bytes(packets[-1])
        copies: list[Packet[Any]] = []
        for number in range(times):
            copies.append(Packet(last))
            copies[-1].time_base, copies[-1].pts = Fraction(1, 1000), 1000 + 40 * number
            copies[-1].dts = copies[-1].pts
        return packets + copies

    return remux(source, path, over)


class Watch:
    """While it is open: the most memory that a worker had, and the longest time without an answer."""

    def __init__(self) -> None:
        self._ended, self._last = threading.Event(), time.monotonic()
        self.worst_bytes, self.longest = 0, 0.0

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def answered(self) -> None:
        now = time.monotonic()
        self.longest, self._last = max(self.longest, now - self._last), now

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            for child in psutil.Process().children():
                with contextlib.suppress(OSError):
                    if found := re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{child.pid}/status").read_text()):
                        self.worst_bytes = max(self.worst_bytes, int(found[1]) << 10)


def through(videos: Path, work: Path, time_limit: float, workers: int) -> dict[str, Any]:
    """Take every video of a directory through plan, the GPU line's planner, inspect and extract; what came of it."""
    names = sorted(entry.stem for entry in videos.iterdir())
    rule = SamplingRule("uniform", 4)
    samples = [Sample("hostile", path.stem, path, (), rule, work / "x.npy") for path in sorted(videos.iterdir())]
    config = ExtractConfig(
        videos=videos, name="hostile", sampling="uniform", n_frms=4, output_root=work / "out",
        workers=workers, time_limit=time_limit, weights="random:0",
    )  # fmt: skip

    def by_pool(verb: str, given: Sequence[Any], watch: Watch) -> Iterator[Any]:
        with contextlib.closing(WorkerPool(workers, 4, 64, time_limit=time_limit, held=0)) as pool:
            for answer in getattr(pool, verb)(given):
                watch.answered()
                yield answer

    def extracted(watch: Watch) -> list[Outcome]:
        outcomes: list[Outcome] = []

        class Keeping(Observer):
            def advanced(self, tally: Any, outcome: Outcome) -> None:
                watch.answered()
                outcomes.append(outcome)

        def build(_: Any, spec: Any, n: int, tell: Any) -> Parts:
            decoder, encoder = WorkerPool(workers, n, 64, time_limit=time_limit), SyntheticEncoder(spec.dim, 64)
            return Parts(decoder, encoder, NpyWriter(), "cpu")

        with mock.patch("gpupeak.lines.build.build", build):
            extract(config, Keeping())
        return outcomes

    acts: dict[str, Callable[[Watch], Iterable[Any]]] = {
        "plan": lambda watch: by_pool("plan", samples, watch),
        "inspect": lambda watch: by_pool("perform", [InspectTask(sample) for sample in samples], watch),
        "extract": extracted,
    }
    passes: dict[str, Any] = {}
    for name, act in acts.items():
        with Watch() as watch:
            passes[name] = _tally(names, act(watch))
        passes[name] |= {"longest_s": round(watch.longest, 2), "worst_mib": watch.worst_bytes >> 20}
    made = (work / "out/hostile").glob("*/*.npy")
    passes["extract"]["torn_files"] = sum(not is_whole(path, 4, 768) for path in made)
    return passes


def _tally(names: Sequence[str], answers: Iterable[Any]) -> dict[str, Any]:
    outcomes, reasons = Counter[str](), Counter[str]()
    seen: list[str] = []
    unexpected = []
    for answer in answers:
        sample = answer.plan.sample if isinstance(answer, Planned) else answer.sample
        seen.append(sample.name)
        if isinstance(answer, Failed):
            outcomes[f"failed: {answer.stage}"] += 1
            reasons[re.sub(r"[0-9]+(x[0-9]+)?", "N", answer.reason)[:90]] += 1
            if "\n" in answer.reason or answer.reason.startswith("unexpected"):
                unexpected.append(f"{sample.name}: {answer.reason}")
        else:
            outcomes["done" if isinstance(answer, (Planned, Done)) else "saved"] += 1
    return {
        "outcomes": dict(outcomes),
        "reasons": dict(reasons.most_common(25)),
        "lost": len(set(names) - set(seen)),
        "doubled": len(seen) - len(set(seen)),
        "unexpected": unexpected,
        "out_of_memory": reasons[OUT_OF_MEMORY],
    }


def make(scale: str, seed: int, directory: Path) -> Counter[str]:
    """Fill a directory with mutants and crafted files; how many of each kind."""
    bases, forge = directory.with_name("bases"), directory.with_name("forge")
    for place in (bases, forge, directory):
        place.mkdir(parents=True)
    sources = [write_kind(kind, bases) for kind in (KINDS if scale == "full" else SMALL_KINDS)]
    real = real_clips()
    contents = {path: path.read_bytes() for path in (*sources, *real)}
    made: Counter[str] = Counter()
    for number in range(MUTANTS[scale]):
        draw = random.Random(f"{seed}/{number}")
        source = draw.choice(real) if number % 12 == 0 else draw.choice(sources)
        data, how = mutate(contents[source], draw, list(contents.values()))
        suffix = ".mpg" if source.suffix == ".h264" else source.suffix  # raw streams are no video's name to gpupeak
        (directory / f"m{number:05}_{source.stem}_{how}{suffix}").write_bytes(data)
        made.update(how.split("+"))
    for path in crafted(forge, large=scale == "full"):
        os.link(path, directory / path.name)
        made["crafted"] += 1
    return made


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    """The whole of it; see the module. `ok` if every mutant has one outcome in each pass, in time and in memory."""
    limit = TIME_LIMIT[scale.name]
    made = make(scale.name, seed, work / "videos")
    passes = through(work / "videos", work, limit, workers=2)
    looked = list(passes.values())
    return {
        "seed": seed,
        "mutants": len(list((work / "videos").iterdir())),
        "mutations": dict(made),
        "passes": passes,
        "longest_s": max(each["longest_s"] for each in looked),
        "time_limit_s": limit,
        "worst_worker_mib": max(each["worst_mib"] for each in looked),
        "worker_limit_mib": MEMORY >> 20,
        "lost_samples": sum(each["lost"] + each["doubled"] for each in looked),
        "ok": all(
            not (each["lost"] or each["doubled"] or each["unexpected"] or each.get("torn_files"))
            and each["longest_s"] <= limit + SLACK_SECONDS
            and each["worst_mib"] <= (MEMORY >> 20) + 256
            for each in looked
        ),
    }
