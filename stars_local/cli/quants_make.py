"""`stars-local quants make`: one model in several types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stars_local.cli.models_shared import AsJson


def make_command(
    source: Annotated[str, typer.Argument(help="An F32, F16 or BF16 GGUF, or a model's name.")],
    types: Annotated[str, typer.Option(help="The types to write, for example Q8_0,Q4_K_M.")],
    out: Annotated[Path, typer.Option(help="The folder for the files.")],
    imatrix: Annotated[
        Path | None, typer.Option(help="An importance matrix as GGUF.", dir_okay=False, exists=True)
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads; 0 for all cores.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Write a model in other types with llama.cpp's quantiser, and say what each file holds.

    Files that are there already and match their manifest are kept.
    """
    from stars_local.catalog.resolve import resolve
    from stars_local.cli.quants_files import make_types
    from stars_local.cli.terminal import neutralise
    from stars_local.quants.make import parse_types

    made = make_types(resolve(source), parse_types(types), out, imatrix, threads)
    if as_json:
        typer.echo(json.dumps([{**each.listing.as_json(), "kept": each.kept} for each in made]))
        return
    for each in made:
        note = " (kept)" if each.kept else ""
        typer.echo(neutralise(f"{each.listing.path}{note}\n    {each.listing.as_text()}"))
