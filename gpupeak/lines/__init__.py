"""Who runs the line: this process, a process for each GPU, or the actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gpupeak.pipeline import Line

Tell: TypeAlias = Callable[[str], None]
"""Told of a choice or a loss, one line each; on any thread."""

Recipe: TypeAlias = "tuple[Callable[..., Line], tuple[object, ...]]"
"""How another process builds its line: an importable function and its arguments, behind which it is given a `Tell`."""
