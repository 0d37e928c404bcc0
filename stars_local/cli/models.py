"""`stars-local models`: what is here, what is known, and whether it is what it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stars_local.cli.models_fetch import import_command, pull_command
from stars_local.cli.models_info import info_command
from stars_local.cli.models_licences import licences_command
from stars_local.cli.models_shared import (
    AsJson,
    ModelsDir,
    calibrated_with_defaults,
    mebibytes,
    tell_path,
)
from stars_local.cli.models_verify import verify_command

if TYPE_CHECKING:
    from stars_local.catalog.listing import Entry

app = typer.Typer(no_args_is_help=True)


@app.callback()
def models() -> None:
    """List, fetch, import and check model files."""


@app.command("list")
def list_command(models_dir: ModelsDir = None, as_json: AsJson = False) -> None:
    """List the models that are here or known."""
    from stars_local.catalog.folder import models_folder
    from stars_local.catalog.listing import list_models
    from stars_local.cli.terminal import one_line

    folder = models_folder(models_dir)
    calibrated = calibrated_with_defaults()
    rows = [_row(entry, folder, calibrated) for entry in list_models(folder)]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        context = None if row["n_ctx"] is None else f"{row['n_ctx']} tokens"
        facts = [mebibytes(row["size_bytes"]), row["quant"], context, row["licence"]]
        if row["calibrated"]:
            facts.append("calibrated")
        facts.append("here" if row["here"] else f"not here: models pull {row['name']}")
        if row["trouble"]:
            facts.append(f"TROUBLE: {row['trouble']}")
        line = ", ".join(str(fact) for fact in facts if fact)
        typer.echo(f"{one_line(row['name'])}\n    {one_line(line)}")


def _row(entry: Entry, folder: Path, calibrated: set[str]) -> dict[str, Any]:
    from stars_local.catalog.manifests import manifest_of

    sha256 = None
    if entry.path is not None and entry.trouble is None:
        manifest = manifest_of(folder, entry.path.name)
        sha256 = None if manifest is None else manifest.sha256
    return {
        "name": entry.name,
        "here": entry.path is not None,
        "path": None if entry.path is None else str(entry.path),
        "size_bytes": entry.size_bytes,
        "quant": entry.quant,
        "n_ctx": entry.n_ctx,
        "licence": entry.licence,
        "calibrated": sha256 in calibrated,
        "sha256": sha256,
        "source": entry.source,
        "trouble": entry.trouble,
    }


@app.command("path")
def path_command(
    name: Annotated[
        str | None, typer.Argument(help="A model; without one, the folder.", show_default=False)
    ] = None,
    models_dir: ModelsDir = None,
) -> None:
    """Print where a model lies, or the folder that model files are kept in."""
    from stars_local.catalog.folder import models_folder
    from stars_local.catalog.resolve import resolve

    tell_path(models_folder(models_dir) if name is None else resolve(name, models_dir))


@app.command("remove")
def remove_command(
    name: Annotated[str, typer.Argument(help="A model that is here.")],
    models_dir: ModelsDir = None,
) -> None:
    """Remove a model and its manifest; where it was linked, only the link."""
    from stars_local.catalog.folder import models_folder
    from stars_local.catalog.listing import remove_model
    from stars_local.catalog.resolve import resolve
    from stars_local.cli.progress import stages
    from stars_local.cli.terminal import one_line

    folder = models_folder(models_dir)
    with stages() as on_progress:
        removed = remove_model(resolve(name, folder), folder, on_progress)
    for path in removed:
        typer.echo(one_line(f"removed {path}"))


app.command("pull")(pull_command)
app.command("import")(import_command)
app.command("info")(info_command)
app.command("verify")(verify_command)
app.command("licences")(licences_command)
