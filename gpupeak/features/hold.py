"""Who writes below a URL? A store has no locks, so each run leaves an object there, and answers whoever asks for it.

A run puts its own name into the lock object, asking, and looks again after a while: if its name still stands there,
nobody has answered and the directory is its own. A run that holds one looks every two seconds and answers by putting
its name back. So a run that lives is not disturbed, and one that was killed is taken over after a few seconds.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpupeak.errors import RunError
from gpupeak.features.records import lock_file, taken
from gpupeak.storage import remote

__all__ = ["Hold", "take_all"]

_LOOK_SECONDS = 2.0
_ANSWER_SECONDS = 7.0  # of one that lives: three looks, and their way there and back
_SETTLE_SECONDS = 1.0  # where nothing was: whoever begins at the same moment has put its name there by then
_ASKERS = 5
_LONGEST = 4096


class Hold:
    """What keeps other runs out of a feature directory in a store while this one writes there.

    As with the locks of a directory on this machine, a run without a shard keeps out all others, and a shard
    those without one and itself.

    Args:
        path: the mirror path of the directory.
        part: the tag of a shard.
    """

    def __init__(self, path: Path, part: str | None = None) -> None:
        self._path, self._part = path, part
        self._whole = path / ".gpupeak.lock"
        self._own = self._whole if part is None else lock_file(path, part)
        self._id = uuid.uuid4().hex
        self._ended, self._lost = threading.Event(), False
        self._looking: threading.Thread | None = None

    def take(self) -> None:
        """Wait until it is sure that nobody else writes there, and keep others out from then on.

        Raises:
            RunError: another run does.
            WriteError: the store does not take the object.
        """
        began = time.monotonic()
        try:
            there = self._read(self._own) is not None
            self._put(self._own, "asks")
            others = self._others()
            for other in others:
                self._put(other, "asks")
            took = time.monotonic() - began
            time.sleep((_ANSWER_SECONDS if there or others else _SETTLE_SECONDS) + 3 * took)
            if any(map(self._is_held, others)):
                remote.remove(self._own)
                raise taken(self._path)
            if not self._is_own():  # its holder's answer, or one more who asks
                raise taken(self._path, self._part)
            self._put(self._own, "holds")
            for other in others:  # nobody answers for it any more
                remote.remove(other)
        except remote.StoreError as error:
            raise remote.write_error(self._own, error) from error
        self._looking = threading.Thread(target=self._look, name="gpupeak-hold", daemon=True)
        self._looking.start()

    def _is_own(self) -> bool:
        found = self._read(self._own)
        return found is not None and found[0] == self._id

    def _is_held(self, other: Path) -> bool:
        """Whether somebody has answered there. One more who asks may have written over an answer: that comes again."""
        for _ in range(_ASKERS):
            found = self._read(other)
            if found is None or found[0] == self._id:
                return False
            if found[1] == "holds":
                return True
            time.sleep(_ANSWER_SECONDS)
        return False

    def check(self) -> None:
        """Raise RunError if another run has taken the directory over, since this one had not answered."""
        if self._lost:
            raise RunError(
                f"{self._path}: another gpupeak run has begun here while this one did not answer: it is to go on alone"
            )

    def release(self) -> None:
        """Let others in."""
        if self._looking is None:
            return
        self._ended.set()
        self._looking.join()
        self._looking = None
        with contextlib.suppress(remote.StoreError):
            if self._is_own():
                remote.remove(self._own)

    def _others(self) -> list[Path]:
        """The locks that keep this one out, or that this one is to keep out."""
        remote.forget()
        locks = {
            name for name in remote.listing(self._path) or {} if name.startswith(".gpupeak") and name.endswith(".lock")
        }
        wanted = locks if self._part is None else locks & {self._whole.name}
        return [self._path / name for name in sorted(wanted - {self._own.name})]

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            with contextlib.suppress(remote.StoreError):  # it may answer the next time
                found = self._read(self._own)
                if found is None or (found[0] != self._id and found[1] == "holds"):
                    self._lost = True
                    return
                if found[0] != self._id:
                    self._put(self._own, "holds")

    def _put(self, place: Path, state: str) -> None:
        remote.put(place, json.dumps({"id": self._id, "state": state}).encode())

    def _read(self, place: Path) -> tuple[str, str] | None:
        """Whose name stands there, and whether it asks or holds; None if there is no such object."""
        try:
            found = json.loads(remote.read(place, _LONGEST))
            return str(found["id"]), str(found["state"])
        except remote.StoreError as error:
            if error.missing:
                return None
            raise
        except (ValueError, TypeError, KeyError):
            return "", ""  # somebody else's object: it is asked for as any other


def take_all(holds: Sequence[Hold]) -> None:
    """Take all of them: the first alone, since of two runs over the same datasets one is to get all, then the others.

    Raises:
        RunError, WriteError: as `Hold.take`, of the first that cannot be had.
    """
    for some in (holds[:1], holds[1:]):
        with ThreadPoolExecutor(max(1, len(some)), thread_name_prefix="gpupeak-hold") as threads:
            for _ in threads.map(Hold.take, some):
                pass
