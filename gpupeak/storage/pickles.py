"""What does a stranger's pickle hold? It is noted down: nothing is imported, called or copied."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, ClassVar

LARGEST = 8 << 20
"""Bytes of a pickle, a byte an object at the shortest: of a hundred thousand samples with their labels."""
_MOST_GIVEN = 4_000_000


def noted(stream: io.BytesIO, called: Callable[[str, str], str]) -> object:
    """What the next pickle in `stream` holds, with an `Asked` for all that it asks for by name.

    `called` gives what module and name are called in it, and raises for what may not be asked for. Damage, and what
    would take its reader more memory or time than its size says, raises anything.
    """
    return _Unpickler(stream, called).load()


@dataclass(eq=False, slots=True)
class Asked:
    """Something that a pickle asks for by name: noted down, with what it is called with, and never built or copied."""

    what: str
    arguments: object = ()
    state: object = None
    size: int = 1

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        hash(key)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:  # a dataclass's own would show what a list holds twice, forty levels down
        return f"<{self.what}>"


def _tuple_of(size: int) -> Callable[[Any], None]:
    def load(unpickler: Any) -> None:
        unpickler.stack[-size:] = [unpickler.stack[-size:]]

    return load


def _reduce(unpickler: Any) -> None:
    arguments, asked = unpickler.stack.pop(), unpickler.stack[-1]
    size = 1 + sum(len(each) for each in arguments if isinstance(each, Sized))
    unpickler.stack[-1] = {} if asked.what == "dict" and not arguments else Asked(asked.what, arguments, size=size)
    unpickler.given += size  # what calls copy, and each may copy the same
    if unpickler.given > _MOST_GIVEN:
        raise ValueError(f"more than {_MOST_GIVEN:,} values")


class _Unpickler(pickle._Unpickler):
    """The one in Python: the one in C allocates what an opcode claims, as does `load_bytearray8`.

    Tuples are lists: the hash of one that holds a tuple twice, forty levels down, would never be ready.
    """

    dispatch: ClassVar = {
        **pickle._Unpickler.dispatch,
        pickle.TUPLE[0]: pickle._Unpickler.dispatch[pickle.LIST[0]],
        **{code[0]: _tuple_of(n) for n, code in enumerate((pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3), 1)},
        pickle.REDUCE[0]: _reduce,
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
    }

    def __init__(self, stream: io.BytesIO, called: Callable[[str, str], str]) -> None:
        super().__init__(stream, encoding="bytes")
        self._called, self.given = called, 0

    def find_class(self, module: str, name: str) -> Asked:
        return Asked(self._called(module, name))

    def persistent_load(self, pid: object) -> Asked:
        return Asked("persistent")
