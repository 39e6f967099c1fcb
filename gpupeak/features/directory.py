"""One directory of features while a run works in it: what is finished, who else is there, what is recorded."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from gpupeak.errors import ConfigError, GpupeakError, RunError, WriteError, reading, writing
from gpupeak.features.locks import LocalLock, RemoteLock
from gpupeak.features.npy import is_whole, npy_header
from gpupeak.features.records import (
    FORMAT,
    LARGEST_MANIFEST,
    ManifestLine,
    Record,
    Records,
    difference,
    kept_line,
    line_of,
    merged,
    read_lines,
    read_records,
)
from gpupeak.features.remote import RemoteRecords
from gpupeak.storage import places, remote
from gpupeak.storage.atomic import TEMPORARY, replace_file, writer_is_gone
from gpupeak.storage.files import read_bounded
from gpupeak.storage.overlap import overlapped
from gpupeak.types import Outcome, Place, Url

_WAY_OUT = "give another --output-root, or --overwrite to make them all again"
_SHARDS_WAY_OUT = "let those shards end and a run without shards merge them first, or give another --output-root"


class FeatureDirectory:
    """One directory of features: what is done in it, `run.json`, `manifest.jsonl`.

    Making one changes nothing. Entering it (`with`) takes a lock and removes what killed runs left; `absorb`, `begin`,
    `record` and `finish` belong inside. Of a directory in a store the records are worked on in a copy below `copies`.

    Shards run in one directory at the same time, each with a lock and records of its own. What has no shard has the
    directory for itself, and `absorb` makes their records its own. With --overwrite, a shard begins by publishing its
    settings; from then on nothing made with others counts as finished, and no shard of others may begin.
    """

    def __init__(self, place: Place, n: int, dim: int, part: str | None = None, copies: Path | None = None) -> None:
        self.place, self._n, self._dim, self._part = place, n, dim, part
        self._store: RemoteRecords | None = None
        self._lock: LocalLock | RemoteLock
        if isinstance(place, Url):
            self._store, self._lock = RemoteRecords(place, copies), RemoteLock(place, part)
            self.path = self._store.copy
        else:
            self.path, self._lock = place, LocalLock(place, part)
        self._manifest: int | None = None
        self._seen: tuple[Records, set[str]] | None = None
        records, _ = self._look()
        self.run = records.run
        own = Record(self.path, None, self.run) if part is None else records.part(part)
        self.devices = () if own is None else tuple(own.devices)  # which made what is here already
        self.versions = () if own is None else tuple(own.versions)

    @property
    def unguarded(self) -> bool:
        """Whether the file system has no locks, so that nothing keeps a second run out."""
        return self._lock.missing

    @property
    def overwriting(self) -> bool:
        """Whether an overwrite is unfinished, so that not all that is here counts."""
        return bool(self.run and self.run.get("overwriting"))

    def __enter__(self) -> FeatureDirectory:
        with contextlib.ExitStack() as undone:
            undone.callback(self._lock.release)
            try:
                self._lock.take()
                if self._store is not None:
                    self._store.pull()
                    self._seen = None
                else:
                    self._remove_temporaries()
            except OSError as error:
                raise WriteError(f"{self.place}: cannot be used as an output directory: {error.strerror}") from error
            undone.pop_all()
        return self

    def _look(self, there: Collection[str] | None = None) -> tuple[Records, set[str]]:
        """What is recorded and which names have files: listed once, until it may have changed."""
        if self._seen is None:
            with reading(self.path):
                there = places.names(self.path) if there is None else there
            names = {name[:-4] for name in there if name.endswith(".npy")}
            self._seen = read_records(self.path, there), names
        return self._seen

    def _remove_temporaries(self) -> None:
        alone = self._part is None and not self._lock.missing
        there = set()
        for entry in os.scandir(self.path):
            there.add(entry.name)
            if TEMPORARY.match(entry.name) and (alone or writer_is_gone(entry)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)  # noqa: PTH108 - entry.path is a string
        self._seen = None
        self._look(there)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_manifest()
        try:
            if self._store is not None:
                self._store.push()
        except RunError:
            if error is None:  # else that is what to tell
                raise
        finally:
            self._lock.release()

    def done(self, wanted: Collection[str], *, look: bool = True) -> set[str]:
        """Which of the names in `wanted` need no work: their files are whole, in a store by their size, or are there
        if they are not to be looked at.

        While an overwrite is unfinished, only if a record of that overwrite says that it was saved since: features of
        two settings never pass for a finished directory.
        """
        present = self.names().intersection(wanted)
        if (records := self._look()[0]).overwriting:
            present &= records.saved()
        if not look:
            return present
        if isinstance(self.place, Url):
            size = len(npy_header((self._n, self._dim))) + 4 * self._n * self._dim
            listed = remote.listing(self.place) or {}
            return {name for name in present if listed[f"{name}.npy"].size == size}
        names = sorted(present)
        files = [f"{self.path}/{name}.npy" for name in names]
        are_whole = overlapped(partial(is_whole, n=self._n, dim=self._dim), files, processes=True)
        return {name for name, whole in zip(names, are_whole, strict=True) if whole}

    def names(self) -> set[str]:
        if isinstance(self.place, Url):
            return {name[:-4] for name in places.names(self.place) if name.endswith(".npy")}
        return self._look()[1]

    def lines(self, without: Collection[str] = ()) -> Iterator[ManifestLine]:
        """The lines of the manifests that count, oldest first, less torn ones and values `without`. Raises RunError."""
        return self._look()[0].lines(without)

    def refuse_mixing(self, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Raise ConfigError if features of other settings lie here already, or are being made.

        With `overwrite` only those count that shards are making, or have made, in overwriting; without a shard, none.
        """
        records, _ = self._look()
        others = [part for part in records.parts if part.part != self._part]
        wrong: list[Record] = []
        if self._part is not None:  # what a shard at work has not saved yet, it will
            wrong += [
                part for part in others if (part.overwriting and overwrite) or self._lock.is_held(part.part or "")
            ]
        if not overwrite and self.names():  # with no file, there is nothing to be mixed
            if (kinds := records.disagreement()) is not None:
                raise ConfigError(f"{self.place}: holds features of two kinds: {kinds}; {_WAY_OUT}")
            wrong += records.current
        for record in wrong:
            known = record.run is not None or record.manifest.is_file()
            if known and (told := difference(record.settings, settings)):
                way_out = _SHARDS_WAY_OUT if overwrite else _WAY_OUT
                raise ConfigError(
                    f"{self.place}: holds features made with {told[0]}, this run has {told[1]}; {way_out}"
                )

    def absorb(self, names: Sequence[str] = (), *, overwrite: bool = False) -> None:
        """Make the records of all shards one `run.json` and one manifest.

        The parts are removed last, by which time `run.json` names them: a kill at any moment loses nothing. Raises
        ConfigError if the records tell of features of two kinds, unless `overwrite`, and WriteError.
        """
        records, _ = self._look()
        told = records.disagreement() if records.parts else None
        if told is not None and not overwrite:
            raise ConfigError(f"{self.place}: holds features of two kinds: {told}; {_WAY_OUT}")
        with writing(self.place):
            for part in (*records.leftovers, *records.parts):
                if part not in records.current:  # merged already, or of before an overwrite
                    part.remove()
            if records.parts:
                self._write_merged(records, names, nothing_counts=told is not None)
            for part in records.parts:
                part.remove()
        if records.parts:
            self._seen = None

    def _write_merged(self, records: Records, names: Sequence[str], *, nothing_counts: bool) -> None:
        run = dict(records.run or {})
        run["overwriting"] = nothing_counts or (records.overwriting and bool(self.names() - records.saved()))
        lines = merged(() if nothing_counts else records.lines(), names, self._has)
        replace_file(records.main.manifest, lines)
        Record(self.path, None, run).write_run()
        self.run = run

    def _has(self, name: str) -> bool:
        return isinstance(self.place, Url) or is_whole(f"{self.path}/{name}.npy", self._n, self._dim)

    def begin(
        self, run: Mapping[str, Any], *, done: set[str], overwrite: bool, pending: Collection[str] = frozenset()
    ) -> None:
        """Write `run.json` and bring the manifest in step with the files: one line for each of `done`.

        Lines of samples that are neither done nor `pending` are not this run's: they stay, except in an overwrite.
        A shard's manifest has lines only of samples that no other manifest tells of. Raises ConfigError if a shard of
        other settings has begun at the same moment, and WriteError.
        """
        self._seen = None
        records, _ = self._look()
        before = records.part(self._part)
        lines: dict[str, bytes] = {}
        elsewhere: set[str] = set()
        if before is not None and before in records.current and not overwrite:
            lines = {line.sample: line.raw for line in read_lines(before.manifest) if line.sample not in pending}
        if done - lines.keys() and self._part is not None and not overwrite:
            elsewhere = {line.sample for line in records.lines()}
        for name in sorted(done - lines.keys() - elsewhere):
            # A file with no line: made by another tool, or its run was killed between file and line.
            lines[name] = kept_line(name)
        own = {"format": FORMAT, **run, "overwriting": overwrite or records.overwriting}
        if self._part is not None:
            joined = overwrite or any(part.overwriting for part in records.parts)
            own |= {"overwriting": joined, "shard": self._part, "id": uuid.uuid4().hex}
        record = Record(self.path, self._part, own)
        with writing(self.place):
            earlier = [(file, _content(file)) for file in (record.manifest, record.run_file)]
            replace_file(record.manifest, lines.values())
            record.write_run()
        self._seen = None
        if self._store is not None:
            self._store.push()  # a store that takes nothing is noticed before anything is decoded
        if self._part is None:
            self.run = own
        else:
            self._refuse_late(own, overwrite, earlier)
        with writing(self.place):
            self._manifest = os.open(record.manifest, os.O_WRONLY | os.O_APPEND)

    def _refuse_late(self, own: Mapping[str, Any], overwrite: bool, earlier: list[tuple[Path, bytes | None]]) -> None:
        """Refuse mixing again, now that whoever begins at the same moment can see this shard."""
        try:
            if self._store is not None:
                self._store.pull()
                self._seen = None
            self.refuse_mixing(own.get("settings") or {}, overwrite=overwrite)
        except ConfigError:
            with writing(self.place):
                for file, content in earlier:
                    if content is None:
                        file.unlink()
                    else:
                        replace_file(file, [content])
            raise

    def record(self, outcome: Outcome) -> None:
        if self._manifest is None:
            raise GpupeakError(f"{self.place}: record before begin")
        line = line_of(outcome)
        with writing(f"{self.place}/manifest.jsonl"):
            if os.write(self._manifest, line) != len(line):  # a disk that fills up takes a part and says nothing
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._store is not None:
            self._store.keep_in_step()

    def finish(self, names: Sequence[str] = ()) -> int:
        """Put the manifest in the order of `names`, and end an overwrite if every file here was saved since it began.

        Returns how many files were not; for a shard 0, as that is seen when shards are merged.
        """
        remote.forget()
        if self._manifest is not None:
            manifest = Record(self.path, self._part, None).manifest
            with writing(self.place):
                replace_file(manifest, merged(read_lines(manifest), names, self._has))
                self._close_manifest()
        if self._part is not None or not self.overwriting:
            return 0
        self._seen = None
        left = len(self.names() - self._look()[0].saved())
        if not left:
            self.run = {**(self.run or {}), "overwriting": False}
            with writing(self.place):
                Record(self.path, None, self.run).write_run()
        return left

    def _close_manifest(self) -> None:
        if self._manifest is not None:
            os.close(self._manifest)
            self._manifest = None


def _content(file: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return read_bounded(file, LARGEST_MANIFEST)
    return None
