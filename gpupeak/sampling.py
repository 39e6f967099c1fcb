"""Which frames of a video are encoded? Every rule is AffectGPT's own, frame for frame.

All indices are 0-based frame numbers in presentation order, ascending.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from gpupeak.errors import SampleError
from gpupeak.types import NoPeak, Peak, SamplingRule

# The rules multiply a float step by an integer and truncate; up to here a float holds every integer.
_MOST_FRAMES = 2**53


class Choice(NamedTuple):
    """The frames chosen for one video, why the fallback was taken, and what was moved into range, if anything."""

    indices: tuple[int, ...]
    fallback: NoPeak | None
    clamp: str | None


def emotion_peak(peak: int, before: int, after: int, total: int, n: int = 8) -> list[int]:
    """AffectGPT's emotion_peak sampling: the peak, up to two frames on either side, the rest of the video evenly.

    Frames `before` and `after` the peak and in `total` are as the peak's file counts them. The first two only decide
    how many neighbours are taken: as many as there are up to two; two on the other side where one is 0. A peak outside
    the video is clamped into it; fewer frames than `n` are repeated in turn. AffectGPT's function returns 8 for every
    `n` below 8; this one returns `n`, giving up neighbours in the order peak+2, peak-2, peak+1, peak-1.
    """
    _check(total, n)
    peak = min(max(peak, 0), total - 1)
    left, right = _neighbours(before, after)
    around = [peak]
    for distance in (1, 2):
        around += [peak - distance] * (distance <= left) + [peak + distance] * (distance <= right)
    taken = [index for index in around if 0 <= index < total][:n]

    missing, rest = n - len(taken), total - len(taken)
    if rest <= missing:
        return sorted(i % total for i in range(n))
    if missing:
        step = rest / missing
        taken += _not_among(taken, [int(i * step) for i in range(missing)])
    return sorted(taken)


def uniform(frames: int, n: int) -> list[int]:
    """AffectGPT's uniform sampling: `numpy.arange(0, frames, frames / min(n, frames)).astype(int)`.

    The last index is repeated up to `n`. Rounding can make that `arange` one too long, for 7 of 17 frames say.
    """
    _check(frames, n)
    count = min(n, frames)
    step = frames / count
    return _padded([int(i * step) for i in range(count)], n)


def uniform_both_ends(frames: int, n: int) -> list[int]:
    """`numpy.linspace(0, frames - 1, n).astype(int)`: what AffectGPT falls back to without a peak."""
    _check(frames, n)
    if n == 1:
        return [0]
    step = (frames - 1) / (n - 1)
    return [int(i * step) for i in range(n - 1)] + [frames - 1]


def middle(frames: int, n: int) -> list[int]:
    """The middle frame, `n` times: what AffectGPT does where it has no action-unit directory."""
    _check(frames, n)
    return [frames // 2] * n


def headtail(frames: int, n: int, seed: int, name: str) -> list[int]:
    """AffectGPT's headtail sampling: half the frames of either half, ascending, the last one repeated up to `n`.

    Drawn without replacement by SHAKE-256 of `seed` and the sample's `name`: the same on every machine. Frame 0, `n`
    times, where that leaves nothing to draw (one frame, or n = 1).
    """
    _check(frames, n)
    count = min(n, frames) // 2
    if count == 0:
        return [0] * n
    stream = hashlib.shake_256(f"{seed}\0{name}".encode("utf-8", "surrogatepass")).digest(16 * count)
    draws = [int.from_bytes(stream[i : i + 8], "big") for i in range(0, len(stream), 8)]
    half = frames // 2
    head = _drawn(half, draws[:count])
    tail = [half + index for index in _drawn(frames - half, draws[count:])]
    return _padded(head + tail, n)


def choose(rule: SamplingRule, name: str, frames: int, peak: Peak | NoPeak | None) -> Choice:
    """Apply `rule` to one video.

    With `emotion_peak`, what the peak's file does not say comes from the video. A file that counts other than the
    video is believed for the rule; then each index past the end becomes the video's last frame. Raises SampleError
    if there is no usable peak and the rule's fallback is "fail".
    """
    if rule.method == "uniform":
        return Choice(tuple(uniform(frames, rule.n)), None, None)
    if rule.method == "headtail":
        return Choice(tuple(headtail(frames, rule.n, rule.seed, name)), None, None)
    if isinstance(peak, Peak):
        return _around(peak, frames, rule.n)

    missing = peak or NoPeak("no AU directory", "no action-unit directory was given")
    if rule.fallback == "fail":
        raise SampleError("plan", f"{missing.reason}: {missing.detail}")
    fallback = middle if rule.fallback == "middle" else uniform_both_ends
    return Choice(tuple(fallback(frames, rule.n)), missing, None)


def _around(peak: Peak, frames: int, n: int) -> Choice:
    _check(frames, n)
    total = peak.total if peak.total is not None and 1 <= peak.total <= _MOST_FRAMES else frames
    index = min(max(peak.index, 0), total - 1)
    before = index if peak.before is None else peak.before
    after = total - 1 - index if peak.after is None else peak.after
    planned = emotion_peak(index, before, after, total, n)

    clamps = []
    if index != peak.index:
        clamps.append(f"peak {peak.index} -> {index}")
    if beyond := sum(i >= frames for i in planned):
        clamps.append(f"{beyond} {'index' if beyond == 1 else 'indices'} -> {frames - 1}")
    return Choice(tuple(min(i, frames - 1) for i in planned), None, "; ".join(clamps) or None)


def _neighbours(before: int, after: int) -> tuple[int, int]:
    if before == 0:
        return 0, 2
    if after == 0:
        return 2, 0
    if before < 0 or after < 0:
        return 0, 0
    return min(before, 2), min(after, 2)


def _not_among(taken: Sequence[int], ranks: Sequence[int]) -> list[int]:
    """For each ascending rank, the frame that has it among those not taken, without listing them all."""
    passed, frames, skipped = sorted(taken), [], 0
    for rank in ranks:
        while skipped < len(passed) and passed[skipped] <= rank + skipped:
            skipped += 1
        frames.append(rank + skipped)
    return frames


def _drawn(size: int, draws: Sequence[int]) -> list[int]:
    """As many of 0 .. size-1 as there are 64-bit `draws`, without replacement, ascending: Floyd's sampling."""
    chosen: set[int] = set()
    for last, draw in enumerate(draws, start=size - len(draws)):
        pick = draw % (last + 1)
        chosen.add(last if pick in chosen else pick)
    return sorted(chosen)


def _padded(indices: list[int], n: int) -> list[int]:
    return indices + indices[-1:] * (n - len(indices))


def _check(frames: int, n: int) -> None:
    if not 1 <= frames <= _MOST_FRAMES:
        raise ValueError(f"the video has {frames} frames, expected 1 to 2**53")
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
