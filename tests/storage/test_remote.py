"""Reading, listing and writing in stores, by fsspec's own in memory: what passes is tried again, files are whole."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from gpupeak.errors import UsageError
from gpupeak.storage import remote
from gpupeak.types import Url

ROOT = Url("memory", "store")


def at(name: str) -> Url:
    return Url("memory", f"store/{name}")


class Plain(MemoryFileSystem):  # type: ignore[misc]
    """A store without whole puts: what is cut off leaves a part."""

    protocol = "plain"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cuts = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("plain://", "memory://")))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if Plain.cuts:
            Plain.cuts -= 1
            super().pipe_file(path, value[:10])
            raise ConnectionResetError("cut off")
        super().pipe_file(path, value, mode)


def test_where_puts_are_not_whole_a_file_is_renamed() -> None:
    fsspec.register_implementation("plain", Plain, clobber=True)
    url = Url("plain", "host/features/a.npy")

    def files() -> dict[str, bytes]:
        return {place: file.getvalue() for place, file in Plain.store.items()}

    remote.put(url, b"before" * 10)
    Plain.cuts = 2
    remote.put(url, b"after" * 10)
    assert files() == {"/host/features/a.npy": b"after" * 10}
    Plain.cuts = 100
    with pytest.raises(remote.StoreError, match=r"plain://host/features/a\.npy: cut off, 6 times"):
        remote.put(url, b"never" * 10)
    assert files() == {"/host/features/a.npy": b"after" * 10}
    Plain.cuts = 0


def test_only_the_first_creates_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote.create(at("lock"), b"one") and not remote.create(at("lock"), b"two")
    assert remote.read(at("lock"), 10) == b"one"
    create = MemoryFileSystem.pipe_file

    def answer_lost(self: Any, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        create(self, path, value, mode, **kwargs)
        raise ConnectionResetError("gone")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", answer_lost)
    assert remote.create(at("other"), b"mine"), "its own file, whose answer was lost"


def test_a_file_that_has_changed_since_it_was_listed_is_not_taken(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    remote.put(at("a.mp4"), b"a longer second")
    with pytest.raises(remote.StoreError, match=r"a\.mp4: is larger than the 5 bytes it was listed with"):
        remote.fetch(at("a.mp4"), 5, target)
    remote.put(at("a.mp4"), b"3rd")
    with pytest.raises(remote.StoreError, match=r"3 bytes came, expected 5, 6 times"):
        remote.fetch(at("a.mp4"), 5, target)
    with pytest.raises(FileNotFoundError, match=r"store/none\.mp4"):
        remote.fetch(at("none.mp4"), 5, target)
    remote.remove(at("none.mp4"))
    remote.fetch(at("a.mp4"), 3, target)
    assert target.read_bytes() == b"3rd"
    remote.put(at("empty"), b"")
    remote.fetch(at("empty"), 0, target)
    assert target.read_bytes() == b""
    with pytest.raises(remote.StoreError, match="larger than 2 bytes"):
        remote.read(at("a.mp4"), 2)


def test_a_large_file_comes_in_pieces_and_only_the_lost_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.random.default_rng(0).bytes((40 << 20) + 7)
    remote.put(at("large.mp4"), data)
    starts: Counter[int] = Counter()
    read = MemoryFileSystem.cat_file

    def cut(self: Any, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> Any:
        starts[start or 0] += 1
        if start and starts[start] == 1 and len(starts) == 2:
            raise ConnectionResetError("cut off")
        return read(self, path, start, end, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cut)
    remote.fetch(at("large.mp4"), len(data), tmp_path / "large.mp4")
    assert (tmp_path / "large.mp4").read_bytes() == data
    assert sorted(starts.values()) == [1, 1, 2]


def test_a_store_is_listed_once_and_its_names_lead_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.mp4", "b/b.npy", "b/c/d.npy", "e/e.npy"):
        remote.put(at(name), b"12345")
    listed = remote.listing(ROOT)
    assert listed is not None and {name: entry.size for name, entry in listed.items()} == {
        "a.mp4": 5,
        "b": None,
        "e": None,
    }
    assert set(remote.tree(ROOT)) == {"a.mp4", "b/b.npy", "e/e.npy"}
    assert set(remote.tree(ROOT, {"b"})) == {"a.mp4", "b/b.npy"}
    assert remote.listing(Url("memory", "nothing")) is None
    remote.put(at("late.mp4"), b"")
    assert "late.mp4" not in (remote.listing(ROOT) or {})
    remote.forget()
    assert "late.mp4" in (remote.listing(ROOT) or {})

    odd = [{"name": f"/store/{name}", "size": 1, "type": "file"} for name in ("a", "..", ".", "", "../c", "x\0")]
    monkeypatch.setattr(MemoryFileSystem, "ls", lambda self, path, detail: odd)
    remote.forget()
    assert set(remote.listing(ROOT) or {}) == {"a"}


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^foo://data: fsspec knows no foo://, as it knows s3:// and gs://"):
        remote.listing(Url("foo", "data/x"))
    with pytest.raises(UsageError, match=r"^gs://data: Please install gcsfs to access Google Storage"):
        remote.listing(Url("gs", "data/x"))
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"URLs need fsspec: pip install 'gpupeak\[remote\]'"):
        remote.listing(Url("s3", "never/x"))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    monkeypatch.setattr(sys.modules["fsspec.registry"], "registry", {})
    with pytest.raises(UsageError, match=r"Install s3fs to access S3; .* pip install 'gpupeak\[remote\]'"):
        remote.listing(Url("s3", "never/x"))
