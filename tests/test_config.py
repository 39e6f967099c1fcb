"""One run's settings: checked once, at birth, in one line. What words can say, `cli/test_wrong_uses.py` tries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpupeak import ExtractConfig
from gpupeak.config import OPTIONS
from gpupeak.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("n_frms", 2.5, "--n-frms is 2.5, expected a whole number from 1 to 1,024"),
        ("n_frms", "8", "--n-frms is '8', expected a whole number from 1 to 1,024"),
        ("workers", True, "--workers is True, expected a whole number from 1 to 1,024"),
        ("time_limit", float("inf"), "--time-limit is inf, expected a number from 0.001 to 86,400"),
        ("device", None, "--device is None, expected auto, cpu or cuda:N"),
        ("split", None, "--split is None, expected one of test, train, all"),
        ("datasets", "mer2023", "--datasets is 'mer2023', expected a list of names"),
        ("overwrite", "yes", "--overwrite is 'yes', expected true or false"),
        ("weights", "", "--weights is '', expected text of 1 to 4,096 characters"),
        ("dataset_root", Path("s3://x/y"), "'s3:/x/y' was a URL: give it as text"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(setting: str, value: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ExtractConfig(**{setting: value})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("setting", [name for name, option in OPTIONS.items() if option.bounds])
def test_what_multiplies_is_bounded(setting: str) -> None:
    least, most = OPTIONS[setting].bounds or (0, 0)
    assert OPTIONS[setting].expected(least) is OPTIONS[setting].expected(most) is None
    beyond: Any
    for beyond in (least - 1, most + 1):
        with pytest.raises(ConfigError, match=f"{OPTIONS[setting].name} is .* from {least:,} to {most:,}"):
            ExtractConfig(**{setting: beyond})


def test_what_can_be_meant_is_taken() -> None:
    for device in ("auto", "cpu", "cuda", "cuda:0", "cuda:12", "cuda:0,cuda:1"):
        assert ExtractConfig(device=device).time_limit == 120
    assert ExtractConfig(seed=-(10**30), time_limit=86_400, n_frms=1, gpus_per_actor=1, engine="ray").n_frms == 1
    assert ExtractConfig(videos=Path("x"), name="mine", datasets=("mine",)).datasets == ("mine",)
