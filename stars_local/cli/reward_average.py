"""`stars-local reward average`: several training runs become one reward model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from stars_local.core.errors import UsageError


def reward_average(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Two or more folders of 'reward train'.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    last: Annotated[
        bool,
        typer.Option("--last", help="Each run's last weights, not its best by held-out loss."),
    ] = False,
) -> None:
    """Average the weights of training runs from the same encoder (a "model soup").

    Often judges better than any one of them, at the cost of one. Seeds, data mixes and
    learning rates of the runs may differ; axes and shape may not. Export OUT as usual.
    """
    for package in ("torch", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"averaging needs {package}: pip install 'stars-local[train]'")
    from stars_local.training.averaging import average_checkpoints

    card = average_checkpoints(checkpoints, out, last=last)
    typer.echo(f"wrote {out}: the {card['weights']} weights of {card['average_of']} runs, averaged")
