"""The files of MER-Factory: `_au_analysis.json`, of the version with `au_info`, and `_merr_data.json`, as published."""

from __future__ import annotations

from collections.abc import Iterator

from gpupeak.peaks.rows import Row, Unusable, as_whole, member, total_intensity, whole


def au_info(document: object) -> Iterator[Row]:
    """The first peak of `au_info`, with the frames around it."""
    info = member(document, "au_info", dict)
    peaks = member(info, "peak_frames", list)
    if not peaks:
        raise Unusable("peak_frames is empty")
    yield Row(
        frame=whole(peaks[0], "peak_index"),
        marked=True,
        before=_whole_if_there(peaks[0], "frames_before_peak"),
        after=_whole_if_there(peaks[0], "frames_after_peak"),
        total=_whole_if_there(info, "total_frames", least=1),
    )


def per_frame(document: object) -> Iterator[Row]:
    """Every frame that is described, counted from 1."""
    for entry in member(document, "per_frame_au_descriptions", list):
        if isinstance(entry, dict) and (frame := as_whole(entry.get("frame"), least=1)) is not None:
            units = entry.get("active_aus")
            blink = units.get("AU45_r") if isinstance(units, dict) else None
            marked = entry.get("is_peak_frame") == 1
            yield Row(frame, total_intensity(units), marked, blink=total_intensity([blink]) or 0.0)


def merr_data(document: object) -> Iterator[Row]:
    """The peak, counted from 1."""
    yield Row(whole(member(document, "overall_peak_frame_info", dict), "frame_number", least=1), marked=True)


def _whole_if_there(container: dict[str, object], key: str, least: int = 0) -> int | None:
    return None if container.get(key) is None else whole(container, key, least)
