"""One run's settings: checked once, at birth, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpupeak import ExtractConfig
from gpupeak.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("n_frms", 0, "n-frms is 0, expected a whole number of at least 1"),
        ("n_frms", 2.5, "n-frms is 2.5, expected a whole number"),
        ("n_frms", "8", "n-frms is '8', expected a whole number"),
        ("n_frms", 10**20, "n-frms is 100000000000000000000, expected at most 9,223,372,036,854,775,807"),
        ("batch_size", -1, "batch-size is -1"),
        ("workers", True, "workers is True"),
        ("limit", "3", "limit is '3'"),
        ("seed", "a", "seed is 'a', expected a whole number"),
        ("time_limit", 0, "time-limit is 0, expected more than 0"),
        ("time_limit", float("nan"), "time-limit is nan"),
        ("time_limit", float("inf"), "time-limit is inf"),
        ("time_limit", 1e300, "at most 86400"),
        ("sampling", "peak", "sampling is 'peak', expected one of emotion_peak, uniform, headtail"),
        ("fallback", "none", "fallback is 'none'"),
        ("peak_source", "x", "peak-source is 'x'"),
        ("split", "dev", "split is 'dev', expected one of test, train, all"),
        ("decoder", "gpu", "decoder is 'gpu', expected one of auto, nvdec, cpu, hybrid"),
        ("device", "gpu", "device is 'gpu', expected auto, cpu or cuda:N"),
        ("device", "cuda:x", "device is 'cuda:x'"),
        ("device", None, "device is None"),
        ("datasets", "mer2023", "datasets is the one word 'mer2023'"),
        ("videos", Path("x"), "takes both --videos and --name"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(setting: str, value: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ExtractConfig(**{setting: value})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_corpus_of_ones_own_goes_alone() -> None:
    with pytest.raises(ConfigError, match="cannot be joined with meld"):
        ExtractConfig(videos=Path("x"), name="mine", datasets=("mine", "meld"))
    assert ExtractConfig(videos=Path("x"), name="mine", datasets=("mine",)).datasets == ("mine",)


def test_the_defaults_are_fine() -> None:
    for device in ("auto", "cpu", "cuda", "cuda:0", "cuda:12"):
        assert ExtractConfig(device=device).time_limit == 120
