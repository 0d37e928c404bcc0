"""How what takes long tells how far it has come."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]
"""Told what is done (a stage or a file), how much of it, and of how much."""


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
