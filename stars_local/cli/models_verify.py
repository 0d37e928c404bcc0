"""`stars-local models verify`: is every file here what it was when it came?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stars_local.cli.models_shared import AsJson, ModelsDir
from stars_local.core.errors import ModelError, RewardError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stars_local.catalog.verify import Verdict
    from stars_local.core.progress import OnProgress


def verify_command(models_dir: ModelsDir = None, as_json: AsJson = False) -> None:
    """Hash every file here again, reward models too; exit code 1 if one is damaged."""
    from stars_local.catalog.folder import models_folder
    from stars_local.catalog.verify import verify_models
    from stars_local.cli.progress import stages
    from stars_local.cli.terminal import one_line

    with stages() as on_progress:
        folder = models_folder(models_dir)
        verdicts = verify_models(folder, on_progress)
        for place in _reward_folders(folder):
            verdicts += _verify_reward(place, on_progress)
    if as_json:
        rows = [
            {"path": str(verdict.path), "state": verdict.state, "detail": verdict.detail}
            for verdict in verdicts
        ]
        typer.echo(json.dumps(rows))
    else:
        for verdict in verdicts:
            shown = verdict.state if verdict.is_good else verdict.state.upper()
            detail = f" ({verdict.detail})" if verdict.detail else ""
            typer.echo(one_line(f"{shown:8} {verdict.path}{detail}"))
    bad = [verdict.path.name for verdict in verdicts if not verdict.is_good]
    if bad:
        raise ModelError(f"{', '.join(bad)}: not what came here: remove it and fetch it again")


def _reward_folders(folder: Path) -> Iterator[Path]:
    """Those that come with the program and those of the models folder, one of a name that hides
    the other too, and those of which only the record is left."""
    from stars_local.catalog.reward_records import recorded
    from stars_local.reward.manifest import MANIFEST_NAME
    from stars_local.reward.resolve import known_models

    seen = set()
    here = sorted(folder.iterdir()) if folder.is_dir() else []
    inside = [place for place in here if (place / MANIFEST_NAME).is_file()]
    left = [folder / name for name in recorded(folder)]
    for place in (*known_models(folder).values(), *inside, *left):
        if place.resolve() not in seen:
            seen.add(place.resolve())
            yield place


def _verify_reward(place: Path, on_progress: OnProgress) -> Iterator[Verdict]:
    """Each file of a reward model against what was recorded of it, else its own manifest."""
    from stars_local.catalog.reward_records import SHIPPED, record_of, record_path
    from stars_local.catalog.verify import Verdict, verify_file
    from stars_local.reward.manifest import MANIFEST_NAME, read_manifest
    from stars_local.reward.resolve import find_model

    if not place.is_dir():
        yield Verdict(place, "missing", f"install its bundle again, or remove {record_path(place)}")
        return
    digests: dict[str, str] = {}
    named = {MANIFEST_NAME}
    shipped, trouble = False, ""
    try:
        manifest = read_manifest(place)
        shipped = find_model(str(place))[1]
    except RewardError as error:
        trouble = str(error)
    else:
        digests |= {name: sha256 for name, sha256 in manifest.files.items() if sha256}
        named |= manifest.files.keys()
    try:
        record = SHIPPED.get(place.name) if shipped else record_of(place.parent, place.name)
        digests |= {} if record is None else record
    except ModelError as error:
        yield Verdict(place, "damaged", str(error))
    for name in sorted(digests.keys() | named):
        if trouble and name == MANIFEST_NAME and (place / name).exists():
            yield Verdict(place / name, "damaged", trouble)
        elif name in digests:
            yield verify_file(place / name, digests[name], on_progress)
        elif (place / name).is_file():
            yield Verdict(place / name, "unknown", "its hash was never recorded")
        else:
            yield Verdict(place / name, "missing", "reward.json names it")
