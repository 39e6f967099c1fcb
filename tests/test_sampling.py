"""The rules of sampling against the consumer's own vectors, NumPy's formulas and a slow reading of the rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpupeak.errors import SampleError
from gpupeak.sampling import choose, emotion_peak, headtail, middle, uniform, uniform_both_ends
from gpupeak.types import NoPeak, Peak, SamplingRule

Rule = Callable[[int, int], list[int]]
VECTORS = json.loads((Path(__file__).parent / "vectors" / "emotion_peak_sample.json").read_text())
assert len(VECTORS) == 200
NO_FILE = NoPeak("no AU file", "nothing of this sample in /aus")
COUNTS = [*range(1, 130), 250, 299, 300, 999, 1000, 4096, 86_399, 1_000_003]


def a_peak(index: int, before: int | None = None, after: int | None = None, total: int | None = None) -> Peak:
    return Peak(index, before, after, total, "au_info", Path("a.json"))


def slow_emotion_peak(peak: int, before: int, after: int, total: int, n: int) -> list[int]:
    """The rule step by step, with every list written out."""
    peak = min(max(peak, 0), total - 1)
    around = {(2, 2): [-1, 1, -2, 2], (1, 2): [-1, 1, 2], (2, 1): [-1, 1, -2], (1, 1): [-1, 1]}.get(
        (min(before, 2), min(after, 2)), [1, 2] if before == 0 else [-1, -2]
    )
    taken = [peak, *(peak + step for step in around if 0 <= peak + step < total)][:n]
    rest = [index for index in range(total) if index not in taken]
    missing = n - len(taken)
    if len(rest) <= missing:
        taken += rest
    elif missing:
        step = len(rest) / missing
        taken += [rest[int(i * step)] for i in range(missing)]
    while len(set(taken)) < min(n, total):
        taken.append(min(set(range(total)) - set(taken)))
    once = sorted(set(taken))
    return sorted([*once, *(once[i % len(once)] for i in range(n - len(once)))])


class TestEmotionPeak:
    @pytest.mark.parametrize(("total", "peak", "before", "after", "indices"), VECTORS)
    def test_agrees_with_the_consumer(self, total: int, peak: int, before: int, after: int, indices: list[int]) -> None:
        assert emotion_peak(peak, before, after, total) == indices

    @given(
        total=st.integers(1, 400),
        peak=st.integers(-5, 420),
        before=st.one_of(st.integers(0, 3), st.integers(0, 400)),
        after=st.one_of(st.integers(0, 3), st.integers(0, 400)),
        n=st.integers(1, 20),
    )
    def test_agrees_with_the_rule_written_out(self, total: int, peak: int, before: int, after: int, n: int) -> None:
        indices = emotion_peak(peak, before, after, total, n)
        assert indices == slow_emotion_peak(peak, before, after, total, n)
        assert min(max(peak, 0), total - 1) in indices
        assert len(set(indices)) == min(n, total)

    def test_numbers_below_zero_give_no_neighbours(self) -> None:
        assert emotion_peak(50, -1, 5, 101, 5) == emotion_peak(50, 5, -1, 101, 5) == [0, 25, 50, 51, 76]

    def test_the_size_of_the_video_costs_nothing(self) -> None:
        indices = emotion_peak(5 * 10**11, 9, 9, 10**12)
        assert len(indices) == 8
        assert indices[-1] < 10**12
        assert {5 * 10**11 + step for step in (-2, -1, 0, 1, 2)} < set(indices)


class TestUniform:
    @pytest.mark.parametrize("frames", COUNTS)
    def test_are_numpys_arange_and_linspace(self, frames: int) -> None:
        for n in (*range(1, 34), 64, 100):
            count = min(n, frames)
            arange = np.arange(0, frames, frames / count).astype(int).tolist()[:n]
            assert uniform(frames, n) == arange + arange[-1:] * (n - len(arange))
            assert uniform_both_ends(frames, n) == np.linspace(0, frames - 1, n).astype(int).tolist()

    def test_middle(self) -> None:
        assert middle(300, 8) == [150] * 8
        assert middle(1, 3) == [0] * 3


@pytest.mark.parametrize(
    "rule",
    [uniform, uniform_both_ends, middle, lambda f, n: headtail(f, n, 0, "a"), lambda f, n: emotion_peak(0, 0, 0, f, n)],
)
@pytest.mark.parametrize(("frames", "n"), [(0, 8), (-1, 8), (10**400, 8), (8, 0), (10, -3)])
def test_what_cannot_be_is_refused(rule: Rule, frames: int, n: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        rule(frames, n)


class TestHeadtail:
    @given(frames=st.integers(1, 500), n=st.integers(1, 20), seed=st.integers(-(2**70), 2**70), name=st.text())
    def test_half_from_either_half(self, frames: int, n: int, seed: int, name: str) -> None:
        indices = headtail(frames, n, seed, name)
        assert len(indices) == n
        assert indices == sorted(indices)
        count = min(n, frames) // 2
        drawn = sorted(set(indices))
        assert len(drawn) == max(2 * count, 1)
        assert sum(index < frames // 2 for index in drawn) == count or (count == 0 and drawn == [0])
        assert 0 <= drawn[0] <= drawn[-1] < frames

    def test_seed_and_name_matter(self) -> None:
        draws = {tuple(headtail(300, 8, seed, name)) for seed in (0, 1) for name in ("a", "b", "中文")}
        assert len(draws) == 6

    def test_the_draw_never_changes(self) -> None:
        # Features are compared across runs and machines: these very numbers must stay.
        assert headtail(300, 8, 0, "sample_00000001") == [56, 114, 128, 147, 156, 212, 222, 224]


class TestChoose:
    def test_the_files_own_numbers_decide(self) -> None:
        rule = SamplingRule()
        assert choose(rule, "a", 71, a_peak(68, 1, 2, 71)).indices == (0, 16, 33, 50, 67, 68, 69, 70)
        assert choose(rule, "a", 71, a_peak(68, None, None, 71)).indices == tuple(emotion_peak(68, 68, 2, 71))

    def test_what_the_file_does_not_say_comes_from_the_video(self) -> None:
        choice = choose(SamplingRule(), "a", 300, a_peak(120))
        assert choice == (tuple(emotion_peak(120, 120, 179, 300)), None, None)

    @pytest.mark.parametrize("total", [0, -7, 10**400])
    def test_an_impossible_total_is_none(self, total: int) -> None:
        choice = choose(SamplingRule(), "a", 300, a_peak(120, total=total))
        assert choice == choose(SamplingRule(), "a", 300, a_peak(120))

    @pytest.mark.parametrize(
        ("frames", "n", "peak", "clamp"),
        [
            (300, 8, a_peak(310), "peak 310 -> 299"),
            (250, 8, a_peak(290, 290, 9, 300), "5 indices -> 249"),
            (250, 1, a_peak(250, 250, 49, 300), "1 index -> 249"),
            (250, 1, a_peak(400, 290, 9, 300), "peak 400 -> 299; 1 index -> 249"),
            (300, 8, a_peak(40, 40, 9, 50), None),  # the file counts fewer frames: the choice stays within them
        ],
    )
    def test_what_lies_past_the_end_is_clamped_and_recorded(
        self, frames: int, n: int, peak: Peak, clamp: str | None
    ) -> None:
        total = peak.total or frames
        before = peak.index if peak.before is None else peak.before
        planned = emotion_peak(peak.index, before, peak.after or 0, total, n)
        choice = choose(SamplingRule(n=n), "a", frames, peak)
        assert choice.indices == tuple(min(index, frames - 1) for index in planned)
        assert (choice.fallback, choice.clamp) == (None, clamp)

    @pytest.mark.parametrize(("fallback", "rule"), [("uniform", uniform_both_ends), ("middle", middle)])
    def test_without_a_peak_the_fallback_is_taken_and_recorded(self, fallback: str, rule: Rule) -> None:
        choice = choose(SamplingRule(fallback=fallback), "a", 300, NO_FILE)
        assert choice == (tuple(rule(300, 8)), NO_FILE, None)
        missing = choose(SamplingRule(fallback=fallback), "a", 300, None).fallback
        assert missing is not None and missing.reason == "no AU directory"

    def test_fallback_fail_fails_the_sample(self) -> None:
        with pytest.raises(SampleError, match="no AU file: nothing of this sample in /aus") as caught:
            choose(SamplingRule(fallback="fail"), "a", 300, NO_FILE)
        assert caught.value.stage == "plan"

    def test_uniform_and_headtail_look_at_no_peak(self) -> None:
        assert choose(SamplingRule("uniform"), "a", 300, a_peak(9)) == (tuple(uniform(300, 8)), None, None)
        rule = SamplingRule("headtail", seed=3)
        assert choose(rule, "a", 300, NO_FILE) == (tuple(headtail(300, 8, 3, "a")), None, None)

    @given(
        frames=st.integers(1, 300),
        index=st.integers(-3, 400),
        numbers=st.tuples(*[st.none() | st.integers(-2, 400)] * 3),
        n=st.integers(1, 16),
    )
    def test_always_n_ascending_frames_of_the_video(
        self, frames: int, index: int, numbers: tuple[int | None, int | None, int | None], n: int
    ) -> None:
        indices, _, clamp = choose(SamplingRule(n=n), "a", frames, a_peak(index, *numbers))
        assert len(indices) == n
        assert list(indices) == sorted(indices)
        assert 0 <= indices[0] <= indices[-1] < frames
        assert clamp is None or "\n" not in clamp
