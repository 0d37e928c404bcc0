"""What the `models` commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelsDir = Annotated[
    Path | None,
    typer.Option(
        "--models-dir", help="The folder of the model files.", show_default=False, file_okay=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for machines.")]


def mebibytes(n_bytes: int | None) -> str | None:
    """A size as people read it, None for None."""
    return None if n_bytes is None else f"{n_bytes / (1 << 20):.1f} MiB"
