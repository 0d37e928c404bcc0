"""What the `models` commands share."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from stars_local.cli.terminal import one_line

ModelsDir = Annotated[
    Path | None,
    typer.Option(
        "--models-dir", help="The folder of the model files.", show_default=False, file_okay=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for machines.")]


def tell_path(path: Path) -> None:
    """Print a path: as it is for programs, as one harmless line to a terminal."""
    shown = one_line(str(path)).encode() if sys.stdout.isatty() else os.fsencode(path)
    typer.echo(shown)


def mebibytes(n_bytes: int | None) -> str | None:
    """A size as people read it, None for None."""
    return None if n_bytes is None else f"{n_bytes / (1 << 20):.1f} MiB"


def calibrated_with_defaults() -> set[str]:
    """SHA-256 of the models that have a calibration with the default reward model and segments."""
    from stars_local.calibration.store import calibrated_models
    from stars_local.reward.manifest import read_manifest
    from stars_local.reward.resolve import DEFAULT_MODEL, find_model
    from stars_local.settings import Settings

    manifest = read_manifest(find_model(DEFAULT_MODEL)[0])
    axis = manifest.axes[0].name
    return calibrated_models(manifest.sha256, axis, Settings().segment_size)
