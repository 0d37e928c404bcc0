"""`stars-local bundle`: one file for a machine without a network."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stars_local.cli.models_shared import AsJson, ModelsDir, mebibytes
from stars_local.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stars_local.bundles.manifest import Item

app = typer.Typer(no_args_is_help=True)
Bundle = Annotated[Path, typer.Argument(help="The bundle.", metavar="BUNDLE", show_default=False)]
VerifyKey = Annotated[
    Path | None,
    typer.Option(
        "--verify-key", help="Public Ed25519 key in PEM that must have signed.", show_default=False
    ),
]


@app.callback()
def bundle() -> None:
    """Carry models, rewards, calibrations and wheels in one file."""


@app.command("create")
def create_command(
    out: Annotated[Path, typer.Argument(help="The file to write.", metavar="OUT")],
    model: Annotated[
        list[str] | None, typer.Option(help="A model here; repeat.", show_default=False)
    ] = None,
    reward: Annotated[
        list[str] | None, typer.Option(help="A reward model; repeat.", show_default=False)
    ] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option(help="A prompt set; repeat.", show_default=False)
    ] = None,
    wheels: Annotated[
        bool,
        typer.Option(
            "--wheels",
            help="This version's wheels, by pip, for the platform and Python of this machine.",
        ),
    ] = False,
    wheels_from: Annotated[
        Path | None,
        typer.Option(help="Wheels of a folder, for any platform and Python.", show_default=False),
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(help="Private Ed25519 key in PEM.", show_default=False)
    ] = None,
    models_dir: ModelsDir = None,
) -> None:
    """Write a bundle, with your own calibrations; the same inputs give the same bytes."""
    from importlib.metadata import version

    from stars_local.bundles.create import check, create_bundle
    from stars_local.bundles.scratch import scratch_folder, sweep
    from stars_local.bundles.wheels import gather_wheels
    from stars_local.catalog.pip import unwinding_on_sigterm
    from stars_local.cli.bundle_sources import (
        calibrations,
        joined,
        model_files,
        prompt_set,
        reward_files,
        wheels_of,
    )
    from stars_local.cli.progress import stages
    from stars_local.cli.terminal import neutralise

    if wheels and wheels_from is not None:
        raise UsageError("--wheels and --wheels-from are both given: choose one")
    own, left_out = calibrations()
    sources = joined(
        [
            *(model_files(name, models_dir) for name in model or []),
            *(reward_files(name, models_dir) for name in reward or []),
            *(prompt_set(path) for path in prompts or []),
            own,
        ]
    )
    if not sources and not wheels and wheels_from is None:
        raise UsageError(
            "nothing to carry: give --model, --reward, --prompts, --wheels or --wheels-from"
        )
    check(out, sources, sign)
    for path in left_out:
        typer.echo(
            neutralise(f"left out {path}: no plain file named in letters, digits, _ . + and -"),
            err=True,
        )
    with unwinding_on_sigterm(), ExitStack() as stack:
        sweep(out.parent)
        place = wheels_from
        if wheels:
            try:
                place = gather_wheels(stack.enter_context(scratch_folder(out)), sys.stderr)
            except OSError as error:
                raise DataError(f"{out.parent} cannot take the wheels: {error}") from error
        if place is not None:
            sources |= wheels_of(place)
        with stages() as on_progress:
            items = create_bundle(out, sources, version("stars-local"), on_progress, key=sign)
    typer.echo(neutralise(f"{out}: {_sum_up(items)}"))


@app.command("verify")
def verify_command(path: Bundle, verify_key: VerifyKey = None, as_json: AsJson = False) -> None:
    """Read all of a bundle, and hold every member against its manifest."""
    from stars_local.bundles.reading import verify_bundle
    from stars_local.cli.progress import stages
    from stars_local.cli.terminal import neutralise

    with stages() as on_progress:
        found = verify_bundle(path, on_progress, key=verify_key)
    items, fit = found.items, found.wheels_for
    if as_json:
        from dataclasses import asdict

        content = {
            "signature_checked": verify_key is not None,
            "wheels_for": None if fit is None else asdict(fit),
            "items": [asdict(item) for item in items],
        }
        typer.echo(json.dumps(content))
        return
    for item in items:
        licence = item.licence or "licence unknown"
        typer.echo(neutralise(f"{item.name} ({mebibytes(item.size_bytes)}, {licence})"))
    if fit is not None:
        typer.echo(f"wheels for {fit}")
    checked = "signature good" if verify_key is not None else "signature not asked for"
    typer.echo(f"intact: {_sum_up(items)}, {checked}")


@app.command("install")
def install_command(
    path: Bundle, verify_key: VerifyKey = None, models_dir: ModelsDir = None
) -> None:
    """Verify a bundle, then put its models, rewards, calibrations and prompts in place."""
    from stars_local.bundles.reading import install_bundle, verify_bundle
    from stars_local.catalog.folder import locked, models_folder
    from stars_local.catalog.manifests import FileManifest, write_manifest
    from stars_local.cli.progress import stages
    from stars_local.cli.terminal import neutralise
    from stars_local.core.files import sha256_of

    folder, kept = models_folder(models_dir), []

    def place(item: Item) -> Path | None:
        found = place_of(item, folder)
        if found is None or not item.name.startswith("calibrations/") or not found.is_file():
            return found
        if sha256_of(found) == item.sha256:
            return found
        kept.append(found)  # whoever measured here meant it; the rest of the bundle goes on
        return None

    with stages() as on_progress, ExitStack() as locks:
        verified = verify_bundle(path, on_progress, key=verify_key)
        items = verified.items
        _refuse_hidden_rewards(path, items, folder)
        for item in items:
            if item.name.startswith("models/"):
                name = item.name.partition("/")[2]
                locks.enter_context(locked(folder, name, on_progress))
        placed = install_bundle(path, place, on_progress, key=verify_key)
        for item, found in placed.items():
            if item.name.startswith("models/"):
                said = FileManifest(
                    found.name, f"bundle:{path.name}", item.size_bytes, item.sha256, item.licence
                )
                try:
                    write_manifest(folder, said)
                except OSError as error:
                    raise DataError(
                        f"{folder}: the manifest of {found.name} cannot be written: {error}"
                    ) from error
        _record_rewards(folder, placed)
    for found in placed.values():
        typer.echo(neutralise(f"installed {found}"))
    for found in kept:
        typer.echo(neutralise(f"kept {found}: yours has other bytes than the bundle's"))
    if verified.wheels_for is not None:
        typer.echo(f"wheels for {verified.wheels_for}: installed by the install.py beside them")


def _record_rewards(folder: Path, placed: Mapping[Item, Path]) -> None:
    """Let `models verify` know what each file of the reward models must hash to."""
    from stars_local.catalog.reward_records import write_record

    records: dict[str, dict[str, str]] = {}
    for item, found in placed.items():
        if item.name.startswith("rewards/"):
            records.setdefault(found.parent.name, {})[found.name] = item.sha256
    for name, files in records.items():
        try:
            write_record(folder, name, files)
        except OSError as error:
            raise DataError(f"{folder}: the record of {name} cannot be written: {error}") from error


def place_of(item: Item, folder: Path) -> Path | None:
    """Where a member goes; None for what is only needed before the installation."""
    import platformdirs

    from stars_local.calibration.store import user_folder

    kind, _, name = item.name.partition("/")
    if kind == "calibrations":
        return user_folder() / name
    if kind == "prompts":
        data = Path(platformdirs.user_data_dir("stars-local", appauthor=False))
        return data / "prompts" / name
    return folder / name if kind in ("models", "rewards") else None


def _refuse_hidden_rewards(path: Path, items: tuple[Item, ...], folder: Path) -> None:
    from stars_local.cli.bundle_sources import refuse_hidden
    from stars_local.reward.resolve import known_models

    models: dict[str, dict[str, str]] = {}
    for item in items:
        kind, _, rest = item.name.partition("/")
        if kind == "rewards":
            name, _, file = rest.partition("/")
            models.setdefault(name, {})[file] = item.sha256
    known = known_models(folder)
    for name, sha256s in models.items():
        if name in known and known[name].resolve() != (folder / name).resolve():
            refuse_hidden(str(path), known[name], sha256s)


def _sum_up(items: list[Item] | tuple[Item, ...]) -> str:
    return f"{len(items)} files, {mebibytes(sum(item.size_bytes for item in items))}"
