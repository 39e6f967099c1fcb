"""Were features made of the frames that would be taken now? Files are looked at, and read only where they changed."""

from __future__ import annotations

import dataclasses
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

from gpupeak.errors import SampleError, counted, few
from gpupeak.features.records import SAVED, ManifestLine
from gpupeak.peaks.reading import Listed, Look, places_there, unlisted
from gpupeak.sampling import choose
from gpupeak.storage.files import open_bounded
from gpupeak.storage.overlap import overlapped
from gpupeak.storage.places import is_directory
from gpupeak.types import FileStamp, NoPeak, Peak, Sample

_PARTS, _PART_BYTES = 8, 8192


def made_of(sample: Sample) -> tuple[FileStamp, ...]:
    """The files that a plan of a sample is made of as they are now: the video, then every action-unit file where one is
    looked for; none if the video cannot be read. Of a video here, a CRC-32 of parts of it, too."""
    return _stamps(_au_dirs(sample), True, unlisted, _asked(sample))


_Asked: TypeAlias = "tuple[str, str | None, tuple[FileStamp, ...]]"  # a path is sent to a process in no time as text


def _asked(sample: Sample) -> _Asked:
    """A sample's name, its video if that is here, and what the store says of its files."""
    video = str(sample.video) if isinstance(sample.video, Path) else None
    return sample.name, video, tuple(file.stamp for file in sample.remote)


def _au_dirs(sample: Sample) -> list[Path]:
    looked_for = sample.rule.method == "emotion_peak"
    return [directory for directory in sample.au_dirs if looked_for and isinstance(directory, Path)]


def _stamps(au_dirs: Sequence[Path], content: bool, look: Look, asked: _Asked) -> tuple[FileStamp, ...]:
    name, video, stored = asked
    found = list(stored)
    if video is not None:
        try:
            status = os.stat(video)  # noqa: PTH116 - many of them
            crc32 = parts_crc32(video) if content else None
        except OSError:
            return ()
        found.insert(0, FileStamp(video, status.st_size, status.st_mtime_ns, crc32))
    for directory in au_dirs:
        for place in places_there(name, directory, look):
            try:
                status = os.stat(file := f"{directory}/{place}")  # noqa: PTH116
            except (OSError, ValueError):
                continue
            found.append(FileStamp(file, status.st_size, status.st_mtime_ns))
    return tuple(found)


def parts_crc32(file: Path | str) -> int:
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
    """Of `samples` of one corpus that have features, those that `lines` say were made of another video or of other
    frames than would be taken now, and why. What was only touched or moved is not among them. Lines that do not tell of
    files are judged by their frames; what no line calls saved, or has no video any more, is not judged. Peaks without
    any action-unit directory are not either, with a warning. `peaks` gets those that are known afterwards.
    """
    peaks = {} if peaks is None else peaks
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
    au_dirs, rule = (_au_dirs(judged[0]), dataclasses.asdict(judged[0].rule)) if judged else ([], {})
    looked = partial(_stamps, au_dirs, False, Listed().of)
    files = overlapped(looked, list(map(_asked, judged)), processes=True)
    for sample, now in zip(judged, files, strict=True):
        line = lines[sample.name]
        same = bool(line.files) and now[1:] == line.files[1:] and line.rule == rule
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
