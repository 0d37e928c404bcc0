"""`stars-local models licences`: under what terms everything here came."""

from __future__ import annotations

import json
import re
from pathlib import Path

import typer

from stars_local.cli.models_shared import AsJson, ModelsDir

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNKNOWN = "unknown"


def licences_command(models_dir: ModelsDir = None, as_json: AsJson = False) -> None:
    """List the licence of the program, the packages it needs, and every model here."""
    from stars_local.catalog.folder import models_folder
    from stars_local.catalog.listing import list_models
    from stars_local.cli.terminal import one_line
    from stars_local.reward.resolve import known_models

    folder = models_folder(models_dir)
    rows = [("package", name, licence) for name, licence in package_licences("stars-local")]
    rows += [("reward", name, _licence_of(place)) for name, place in known_models(folder).items()]
    here = [entry for entry in list_models(folder) if entry.path is not None]
    rows += [("model", entry.name, entry.licence or _UNKNOWN) for entry in here]
    if as_json:
        keys = ("kind", "name", "licence")
        typer.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
        return
    for kind, name, licence in rows:
        typer.echo(one_line(f"{kind:8} {name:28} {licence}"))


def _licence_of(reward: Path) -> str:
    from stars_local.core.errors import RewardError
    from stars_local.reward.manifest import read_manifest

    try:
        return read_manifest(reward).licence
    except RewardError as error:
        return f"{_UNKNOWN}: {error}"


def package_licences(root: str) -> list[tuple[str, str]]:
    """A package and all that it needs and is installed, by name, with what each says."""
    from importlib.metadata import PackageNotFoundError, distribution

    from stars_local.catalog.pip import package_name

    found: dict[str, str] = {}
    waiting = [root]
    while waiting:
        name = package_name(waiting.pop())
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # needed on other systems only
        fields = package.metadata
        stated = [key for key in ("License-Expression", "License") if key in fields]
        said = fields[stated[0]] if stated else ""
        kinds = [kind.rsplit("::", 1)[-1].strip() for kind in fields.get_all("Classifier") or []
                 if kind.startswith("License ::")]  # fmt: skip
        lines = said.strip().splitlines() or [" and ".join(kinds) or _UNKNOWN]
        found[name] = lines[0][:100]
        for line in package.requires or []:
            needed = _NAME.match(line)
            if needed is not None and "extra ==" not in line:
                waiting.append(needed[0])
    return sorted(found.items())
