"""`stars-local bundle`: one file for a machine without a network."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stars_local.cli.models_shared import AsJson, ModelsDir, mebibytes
from stars_local.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from stars_local.bundles.create import Source
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
        typer.Option("--wheels", help="This version's wheels, by pip, for this kind of machine."),
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

    from stars_local.bundles.create import create_bundle
    from stars_local.catalog.pip import unwinding_on_sigterm
    from stars_local.cli.progress import stages

    if wheels and wheels_from is not None:
        raise UsageError("--wheels and --wheels-from are both given: choose one")
    sources: dict[str, Source] = {}
    for name in model or []:
        sources |= _model_files(name, models_dir)
    for name in reward or []:
        sources |= _reward_files(name)
    sources |= _calibrations()
    sources |= _prompt_sets(prompts or [])
    with unwinding_on_sigterm(), tempfile.TemporaryDirectory() as folder, stages() as on_progress:
        place = wheels_from
        if wheels:
            place = Path(folder)
            _build_wheels(place)
        if place is not None:
            sources |= _wheels(place)
        items = create_bundle(out, sources, version("stars-local"), on_progress, key=sign)
    typer.echo(f"{out}: {_sum_up(items)}")


@app.command("verify")
def verify_command(path: Bundle, verify_key: VerifyKey = None, as_json: AsJson = False) -> None:
    """Read all of a bundle, and hold every member against its manifest."""
    from stars_local.bundles.reading import verify_bundle
    from stars_local.cli.progress import stages
    from stars_local.cli.terminal import neutralise

    with stages() as on_progress:
        items = verify_bundle(path, on_progress, key=verify_key).items
    if as_json:
        from dataclasses import asdict

        rows = [asdict(item) for item in items]
        typer.echo(json.dumps({"signature_checked": verify_key is not None, "items": rows}))
        return
    for item in items:
        licence = item.licence or "licence unknown"
        typer.echo(neutralise(f"{item.name} ({mebibytes(item.size_bytes)}, {licence})"))
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
        for item in verify_bundle(path, on_progress, key=verify_key).items:
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
    for found in placed.values():
        typer.echo(neutralise(f"installed {found}"))
    for found in kept:
        typer.echo(neutralise(f"kept {found}: yours has other bytes than the bundle's"))


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


def _model_files(name: str, models_dir: Path | None) -> dict[str, Source]:
    from stars_local.bundles.create import Source
    from stars_local.catalog.manifests import manifest_of
    from stars_local.catalog.resolve import resolve
    from stars_local.catalog.sources import part_names
    from stars_local.llama.gguf_check import check_gguf

    path = resolve(name, models_dir)
    said = check_gguf(path).values.get("general.license")
    found = {}
    for part in part_names(path.name):
        known = manifest_of(path.parent, part)
        licence = known.licence if known is not None and known.licence else said
        found[f"models/{part}"] = Source(
            path.with_name(part), licence if isinstance(licence, str) else None
        )
    return found


def _reward_files(name: str) -> dict[str, Source]:
    from stars_local.bundles.create import Source
    from stars_local.reward.manifest import MANIFEST_NAME, read_manifest
    from stars_local.reward.resolve import find_model

    folder, _ = find_model(name)
    known = read_manifest(folder)
    names = {MANIFEST_NAME, known.model_file, known.tokenizer_file, known.golden_file}
    names |= set(known.data_files)
    names |= {n for n in (known.training_card, known.template.chat_template_file) if n is not None}
    return {f"rewards/{folder.name}/{n}": Source(folder / n, known.licence) for n in names}


def _calibrations() -> dict[str, Source]:
    from stars_local.bundles.create import Source
    from stars_local.calibration.store import user_folder

    return {
        f"calibrations/{path.name}": Source(path, None) for path in user_folder().glob("*.json")
    }


def _prompt_sets(paths: list[Path]) -> dict[str, Source]:
    from stars_local.bundles.create import Source

    found = {f"prompts/{path.name}": Source(path, None) for path in paths}
    if len(found) != len(paths):
        raise UsageError("two prompt sets have the same file name: rename one")
    return found


def _wheels(folder: Path) -> dict[str, Source]:
    from stars_local.bundles.create import Source, wheel_licence

    paths = sorted(folder.glob("*.whl"))
    if not any(path.name.startswith("stars_local-") for path in paths):
        raise DataError(f"{folder}: no wheel of stars_local in it: make one with 'pip wheel .'")
    return {f"wheels/{path.name}": Source(path, wheel_licence(path)) for path in paths}


def _build_wheels(folder: Path) -> None:
    from importlib.metadata import version

    from stars_local.catalog.pip import run_pip

    checkout = Path(__file__).resolve().parents[2]
    here = (checkout / "pyproject.toml").is_file()
    what = str(checkout) if here else f"stars-local=={version('stars-local')}"
    with tempfile.TemporaryDirectory() as scratch:
        done = run_pip(["wheel", "--wheel-dir", str(folder), what], Path(scratch), into=sys.stderr)
    if done.returncode != 0:
        raise DataError("pip could not gather the wheels; what it said is above")


def _sum_up(items: list[Item] | tuple[Item, ...]) -> str:
    return f"{len(items)} files, {mebibytes(sum(item.size_bytes for item in items))}"
