"""Aligned language models on your own machine: STARS over GGUF and ONNX, offline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stars_local.api import Aligned

__all__ = ["Aligned"]


def __getattr__(name: str) -> Any:
    """Import the library when it is asked for: a command's help needs none of it."""
    if name == "Aligned":
        from stars_local.api import Aligned

        return Aligned
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
