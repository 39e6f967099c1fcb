"""Were features made of the frames that would be taken now? Files are looked at, and read only where they changed."""

from __future__ import annotations

import dataclasses
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from gpupeak.errors import SampleError, counted, few
from gpupeak.features.records import SAVED, ManifestLine
from gpupeak.peaks.reading import Listed, Look, places_there, unlisted
from gpupeak.sampling import choose
from gpupeak.storage.files import open_bounded
from gpupeak.storage.overlap import overlapped
from gpupeak.storage.places import is_directory
from gpupeak.types import FileStamp, NoPeak, Peak, Sample

_PARTS, _PART_BYTES = 8, 8192


def made_of(sample: Sample, *, content: bool = True, look: Look = unlisted) -> tuple[FileStamp, ...]:
    """The files that a plan of a sample is made of as they are now: the video, then every action-unit file where one is
    looked for; none if the video cannot be read. With `content`, a CRC-32 of parts of a video here; `look` is as for
    `read_peak`."""
    found = [file.stamp for file in sample.remote]
    if isinstance(sample.video, Path):
        try:
            status = os.stat(video := str(sample.video))  # noqa: PTH116 - many of them
            crc32 = parts_crc32(sample.video) if content else None
        except OSError:
            return ()
        found.insert(0, FileStamp(video, status.st_size, status.st_mtime_ns, crc32))
    if sample.rule.method == "emotion_peak":
        for directory in sample.au_dirs:
            for place in places_there(sample.name, directory, look) if isinstance(directory, Path) else ():
                try:
                    status = os.stat(file := f"{directory}/{place}")  # noqa: PTH116
                except (OSError, ValueError):
                    continue
                found.append(FileStamp(file, status.st_size, status.st_mtime_ns))
    return tuple(found)


def parts_crc32(file: Path) -> int:
    """The CRC-32 of eight parts of a file, spread over it: 64 KiB, whatever its size. Raises OSError."""
    with open_bounded(file, sys.maxsize) as stream:
        last = max(os.fstat(stream.fileno()).st_size - _PART_BYTES, 0)
        starts = sorted({last * part // (_PARTS - 1) for part in range(_PARTS)})
        return zlib.crc32(b"".join(os.pread(stream.fileno(), _PART_BYTES, start) for start in starts))


def find_stale(
    dataset: str,
    samples: Iterable[Sample],
    lines: Mapping[str, ManifestLine],
    read_peaks: Callable[[Iterable[Sample]], Iterable[tuple[Sample, Peak | NoPeak]]],
    warnings: list[str],
    peaks: dict[str, Peak | NoPeak] | None = None,
) -> dict[str, str]:
    """Of `samples` that have features, those that `lines` say were made of another video or of other frames than would
    be taken now, and why. What was only touched or moved is not among them. Lines that do not tell of files are judged
    by their frames; what no line calls saved, or has no video any more, is not judged. Peaks without any action-unit
    directory are not either, with a warning. `peaks` gets those that are known afterwards.
    """
    as_dict, peaks = cache(dataclasses.asdict), {} if peaks is None else peaks
    stale: dict[str, str] = {}
    judged: list[Sample] = []
    changed: list[Sample] = []  # something that the choice of frames depends on
    unknown, without = 0, list[str]()
    for sample in samples:
        if sample.video is None:
            without.append(sample.name)
        line = lines.get(sample.name)
        if line is not None and line.failure is not None:
            stale[sample.name] = f"extracting it again failed: {line.failure}"
        if line is not None and line.outcome == SAVED and line.frames and sample.video is not None:
            judged.append(sample)
    files = overlapped(partial(made_of, content=False, look=Listed().of), judged, processes=True)
    for sample, now in zip(judged, files, strict=True):
        line = lines[sample.name]
        same = bool(line.files) and now[1:] == line.files[1:] and line.rule == as_dict(sample.rule)
        if same and (peak := line.peak or line.fallback) is not None:
            peaks[sample.name] = peak
        if now and line.files and (fault := _other_video(sample, now[0], line.files[0])) is not None:
            stale[sample.name] = fault
        elif not same:
            if sample.rule.method != "emotion_peak" or any(map(is_directory, sample.au_dirs)) or line.peak is None:
                changed.append(sample)
            else:
                unknown += 1
    if without:
        warnings.append(f"{dataset}: of {counted(len(without), 'finished sample')} the video is gone: {few(without)}")
    if unknown:
        told = f"of {counted(unknown, 'sample')} there are peaks, and there is no action-unit directory"
        warnings.append(f"{dataset}: {told}: whether the peaks are still those cannot be told")
    peaks |= {s.name: peak for s, peak in read_peaks(s for s in changed if s.rule.method == "emotion_peak")}
    for sample in changed:
        then = lines[sample.name]
        try:
            indices = choose(sample.rule, sample.name, then.frames or 1, peaks.get(sample.name)).indices
        except SampleError as error:
            stale[sample.name] = f"no frames would be taken now: {error.reason}"
            continue
        if indices != then.indices:
            stale[sample.name] = f"frames {list(then.indices)} then, {list(indices)} now"
    return stale


def _other_video(sample: Sample, now: FileStamp, then: FileStamp) -> str | None:
    """Why a video is another one than then. Its time alone says nothing, if it is of this machine: it is read."""
    if now.size != then.size:
        return f"another video: {now.size:,} bytes, {then.size:,} then"
    if type(now.version) is not type(then.version) or now.version == then.version:
        return None  # the same, or moved to or from a store
    with suppress(OSError):
        if not isinstance(sample.video, Path) or parts_crc32(sample.video) != then.crc32:
            return f"another video, of the same {now.size:,} bytes"
    return None
