"""`stars-local quants`: quantised files of a model, made and measured."""

from __future__ import annotations

import typer

from stars_local.cli.quants_advise import advise_command
from stars_local.cli.quants_compare import compare_command
from stars_local.cli.quants_make import make_command

app = typer.Typer(no_args_is_help=True)


@app.callback()
def quants() -> None:
    """Make quantised files, measure what they lost, and say which to run."""


app.command("make")(make_command)
app.command("compare")(compare_command)
app.command("advise")(advise_command)
