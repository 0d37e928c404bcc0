"""What `stars-local bundle create` carries: files of this machine by their names in the bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stars_local.core.errors import DataError, UsageError
from stars_local.core.files import sha256_of

if TYPE_CHECKING:
    from stars_local.bundles.create import Source


def model_files(name: str, models_dir: Path | None) -> dict[str, Source]:
    """A language model, all parts of it, under the licence that its manifest or its file says."""
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


def reward_files(name: str, models_dir: Path | None) -> dict[str, Source]:
    """A reward model's files. Raises DataError where its name would mean another one over there."""
    from stars_local.bundles.create import Source
    from stars_local.reward.manifest import MANIFEST_NAME, read_manifest
    from stars_local.reward.resolve import find_model, known_models

    folder, came_with_us = find_model(name, models_dir)
    known = read_manifest(folder)
    names = {MANIFEST_NAME, *known.files}
    namesake = known_models(models_dir).get(folder.name)
    if not came_with_us and namesake is not None and find_model(str(namesake))[1]:
        refuse_hidden(str(folder), namesake, {n: sha256_of(folder / n) for n in names})
    return {f"rewards/{folder.name}/{n}": Source(folder / n, known.licence) for n in names}


def refuse_hidden(what: str, namesake: Path, sha256s: Mapping[str, str]) -> None:
    """Raise DataError unless the reward model that its name already means has the same files."""
    for name, sha256 in sha256s.items():
        there = namesake / name
        if not there.is_file() or sha256_of(there) != sha256:
            raise DataError(
                f"{what}: this reward model would never be used: {namesake.name} already means "
                f"{namesake}, whose {name} is another; rename the folder before bundling"
            )


def calibrations() -> tuple[dict[str, Source], list[Path]]:
    """What was measured on this machine, and what lies there that no bundle can carry."""
    from stars_local.bundles.create import Source
    from stars_local.bundles.manifest import is_known_name
    from stars_local.calibration.store import user_folder

    found = {f"calibrations/{path.name}": path for path in sorted(user_folder().glob("*.json"))}
    ours = {
        name: Source(path, None)
        for name, path in found.items()
        if is_known_name(name) and path.is_file()
    }
    return ours, [path for name, path in found.items() if name not in ours]


def prompt_set(path: Path) -> dict[str, Source]:
    """A prompt set by its file name."""
    from stars_local.bundles.create import Source

    return {f"prompts/{path.name}": Source(path, None)}


def joined(parts: Iterable[dict[str, Source]]) -> dict[str, Source]:
    """All of them; UsageError where two files would have one name."""
    found: dict[str, Source] = {}
    for part in parts:
        for name, source in part.items():
            other = found.setdefault(name, source).path
            if other.resolve() != source.path.resolve():
                raise UsageError(f"{other} and {source.path} would both be {name}: rename one")
    return found


def wheels_of(folder: Path) -> dict[str, Source]:
    """The wheels of a folder; DataError where ours is not among them."""
    from stars_local.bundles.create import Source
    from stars_local.bundles.wheels import wheel_licence

    paths = sorted(folder.glob("*.whl"))
    if not any(path.name.startswith("stars_local-") for path in paths):
        raise DataError(f"{folder}: no wheel of stars_local in it: make one with 'pip wheel .'")
    return {f"wheels/{path.name}": Source(path, wheel_licence(path)) for path in paths}
