from __future__ import annotations

from collections.abc import Iterable
from itertools import islice


def few(names: Iterable[str]) -> str:
    """The first three names, as they stand, for a message."""
    shown = list(islice(names, 4))
    return ", ".join(shown[:3]) + ", ..." * (len(shown) > 3)
