"""Settings that multiply are held to what the machine has, and what is taken less is said."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from gpupeak import ExtractConfig
from gpupeak.decode import resources
from gpupeak.decode.resources import fitted, refuse_excess
from gpupeak.errors import ConfigError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("given", "n", "samples", "free", "workers", "told"),
    [
        ({"workers": 60}, 8, 1, 99 * GIB, 1, False),
        ({}, 8, 10**6, 99 * GIB, 69, True),
        ({"workers": 12}, 1024, 10**6, 99 * GIB, 12, False),
        ({}, 1024, 10**6, 99 * GIB, 12, True),
        ({"device": "cuda:0,cuda:1"}, 1024, 10**6, 99 * GIB, 24, True),
        ({}, 8, 10**6, 2 * GIB, 17, True),
        ({}, 8, 0, 0, 1, False),
    ],
)
def test_there_are_as_many_workers_as_have_work_and_room(
    given: dict[str, Any], n: int, samples: int, free: int, workers: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 400)
    monkeypatch.setattr(resources, "_available_bytes", lambda: free)
    said: list[str] = []
    assert fitted(ExtractConfig(**given), n, 224, samples, said.append).workers == workers
    assert [line.startswith(f"{workers} decoding processes, not 400: ") for line in said] == [True] * told


@pytest.mark.parametrize(("datasets", "soft"), [(9, 1024), (500, 1044), (1200, None)])
def test_as_many_files_may_be_open_as_datasets_take_or_they_are_refused(
    datasets: int, soft: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [(1024, 2048)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.append(new))
    if soft is None:
        told = r"1,200 datasets and 4 workers take 2,444 open files, and this process may have 2,048 \(ulimit -n\)"
        with pytest.raises(ConfigError, match=told):
            refuse_excess(ExtractConfig(workers=4), 8, 224, datasets)
    else:
        refuse_excess(ExtractConfig(workers=4), 8, 224, datasets)
        assert limits[-1] == (soft, 2048)
