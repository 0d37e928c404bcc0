"""`stars-local models`: what is here, what is known, and how to fetch it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from stars_local.core.errors import ModelError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def models() -> None:
    """List, fetch and check model files."""


@app.command("pull")
def pull_command(
    name: Annotated[str, typer.Argument(help="A known model.")] = "SmolLM2-135M-Instruct.Q4_1",
    quiet: Annotated[bool, typer.Option(help="Say nothing where it is here already.")] = False,
) -> None:
    """Fetch a known model. Of all commands only this one uses the network."""
    from stars_local.catalog.folder import models_folder
    from stars_local.catalog.known import KNOWN
    from stars_local.catalog.pull import pull
    from stars_local.cli.progress import stages

    if name not in KNOWN:
        raise ModelError(f"no known model {name!r}: known are {', '.join(KNOWN)}")
    folder = models_folder()
    was_here = (folder / KNOWN[name].file_name).is_file()
    with stages() as on_progress:
        path = pull(KNOWN[name], folder, on_progress)
    if not (quiet and was_here):
        typer.echo(path)


@app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """List the models that are here or known."""
    from stars_local.catalog.folder import models_folder
    from stars_local.catalog.known import KNOWN

    folder = models_folder()
    here = {path.name: path for path in sorted(folder.glob("*.gguf"))} if folder.is_dir() else {}
    rows = []
    for model in KNOWN.values():
        path = here.pop(model.file_name, None)
        rows.append(
            {
                "name": model.name,
                "here": path is not None,
                "size_bytes": model.size_bytes,
                "quant": model.quant,
                "n_ctx": model.n_ctx,
                "licence": model.licence,
                "path": None if path is None else str(path),
            }
        )
    for path in here.values():
        size = path.stat().st_size
        rows.append(
            {
                "name": path.stem,
                "here": True,
                "size_bytes": size,
                "quant": None,
                "n_ctx": None,
                "licence": None,
                "path": str(path),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        state = "here" if row["here"] else f"models pull {row['name']}"
        facts = ", ".join(str(row[key]) for key in ("quant", "licence") if row[key])
        typer.echo(f"{row['name']}\n    {int(str(row['size_bytes'])) >> 20} MiB  {facts}  {state}")


@app.command("path")
def path_command() -> None:
    """Print the folder that model files are kept in."""
    from stars_local.catalog.folder import models_folder

    typer.echo(models_folder())


@app.command("verify")
def verify_command() -> None:
    """Check every known model that is here against its hash; exit code 1 if one is damaged."""
    from stars_local.catalog.folder import models_folder
    from stars_local.catalog.known import KNOWN
    from stars_local.catalog.pull import is_intact

    damaged = []
    for model in KNOWN.values():
        path = models_folder() / model.file_name
        if not path.is_file():
            continue
        intact = is_intact(path, model)
        typer.echo(f"{'intact ' if intact else 'DAMAGED'}  {path}")
        if not intact:
            damaged.append(path.name)
    if damaged:
        raise ModelError(f"{', '.join(damaged)}: not the file that was published: pull it again")
