"""What a setting names: a path of this machine, or the URL of a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpupeak.errors import ConfigError
from gpupeak.storage.places import is_url, local, place
from gpupeak.types import Url


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket",
        "s3://bucket/a b/喜 怒.mp4",
        "gs://bucket/%2F/q?x=1#y",
        "memory://a/b",
        "hdfs:///user/me",
        "sftp://me@host:22/data/x",
        "abfs://container@account.dfs.core.windows.net/x",
    ],
)
def test_a_url_stays_one(text: str) -> None:
    url = place(text)
    assert isinstance(url, Url) and is_url(text)
    assert str(url) == text == str(place(f"{text}/")) == str(place(url))
    assert str(url / "c.npy") == f"{text}/c.npy"
    assert (url / "c/d.npy").name == "d.npy" and (url / "c.npy").parent == url
    with pytest.raises(ValueError, match="has not been fetched"):
        local(url)


def test_places_are_joined_whatever_their_kind() -> None:
    url = place("s3://bucket/root")
    assert Path("/data") / url == url
    assert url / "/data" == Path("/data") and url / Path("/data") == Path("/data")
    assert url / place("gs://other/x") == place("gs://other/x")
    assert (url / "clip.one.mp4").stem == "clip.one"


@pytest.mark.parametrize("text", ["s3://b//a", "s3://b/./a", "s3://b/../a", "s3://b/a\0", "s3://", "memory://"])
def test_a_url_that_could_lead_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="names no place in a store"):
        place(text)


@pytest.mark.parametrize("text", ["C:/videos", "a:b", "./s3:/x", "data", "~/x", "s3:/bucket"])
def test_what_is_no_url_is_a_path(text: str) -> None:
    assert not is_url(text) and place(text) == Path(text).expanduser()


def test_a_file_url_is_a_path() -> None:
    assert place("file:///data/clips") == place("file://localhost/data/clips") == Path("/data/clips")
