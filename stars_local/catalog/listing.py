"""What models there are: those that are known, and those that are here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stars_local.catalog.arriving import settle
from stars_local.catalog.folder import locked
from stars_local.catalog.known import KNOWN
from stars_local.catalog.manifests import clean_licence, manifest_of, remove_manifest
from stars_local.catalog.sources import part_names
from stars_local.catalog.verify import model_files
from stars_local.core.errors import ModelError
from stars_local.core.progress import OnProgress
from stars_local.llama.gguf_check import check_length, read_metadata


@dataclass(frozen=True, slots=True)
class Entry:
    """One model. path is None where it is known and not here; the rest is None where nobody
    says. trouble: why the file here is no use, as far as a look at its size and header tells.
    Sizes of split models are those of all
    parts here."""

    name: str
    path: Path | None
    size_bytes: int | None
    licence: str | None
    quant: str | None
    n_ctx: int | None
    source: str | None
    trouble: str | None = None


def list_models(folder: Path) -> list[Entry]:
    """Known models in their order, then the others of the folder by name."""
    here = {path.name: path for path in model_files(folder)}
    entries = []
    for model in KNOWN.values():
        path = here.pop(model.file_name, None)
        entries.append(
            Entry(
                model.name,
                path,
                model.size_bytes if path is None else _size(path),
                model.licence,
                model.quant,
                model.n_ctx,
                model.source,
                None if path is None else _wrong_size(folder, path),
            )
        )
    for path in here.values():
        first, *others = part_names(path.name)
        if path.name == first or first not in here:
            entries.append(_entry(folder, path, [here[name] for name in others if name in here]))
    return entries


def remove_model(path: Path, folder: Path, on_progress: OnProgress) -> list[Path]:
    """Remove a model of the folder, all its parts and manifests; of a link only the link.

    Returns what was removed. Raises ModelError for a file elsewhere, or one that stays.
    """
    if path.parent.resolve() != folder.resolve():
        raise ModelError(f"{path} is not in {folder}: only files there are removed")
    removed = []
    for name in part_names(path.name):
        with locked(folder, name, on_progress):
            target = folder / name
            try:
                if target.is_symlink() or target.exists():
                    target.unlink()
                    removed.append(target)
                remove_manifest(folder, name)
                settle(folder, name, on_progress)
            except OSError as error:
                raise ModelError(f"{target} cannot be removed: {error.strerror}") from error
    return removed


def _entry(folder: Path, path: Path, others: list[Path]) -> Entry:
    quant, n_ctx, licence, source, trouble = None, None, None, None, None
    try:
        header = read_metadata(path)
        quant, n_ctx = header.quant, header.n_ctx_train
        said = header.values.get("general.license")
        licence = clean_licence(said) if isinstance(said, str) else None
        manifest = manifest_of(folder, path.name)
        if manifest is not None:
            source = manifest.source
            licence = licence if manifest.licence is None else manifest.licence
        trouble = _trouble(folder, path, others)
    except ModelError as error:
        trouble = str(error)
    sizes = [_size(part) for part in (path, *others)]
    known = [size for size in sizes if size is not None]
    size = sum(known) if known else None
    return Entry(path.stem, path, size, licence, quant, n_ctx, source, trouble)


def _trouble(folder: Path, path: Path, others: list[Path]) -> str | None:
    """What is wrong with a model's files; ModelError for those that cannot be read."""
    n_missing = len(part_names(path.name)) - 1 - len(others)
    if n_missing > 0:
        return f"{n_missing} of its parts are missing: pull or import it again"
    for part in (path, *others):
        wrong = _wrong_size(folder, part)
        if wrong is not None:
            return wrong
        check_length(part, read_metadata(part))
    return None


def _wrong_size(folder: Path, path: Path) -> str | None:
    size, manifest = _size(path), manifest_of(folder, path.name)
    if size is None:
        return "the link leads nowhere: remove it, and pull or import the model again"
    if manifest is None or size == manifest.size_bytes:
        return None
    found = f"{path.name} has {size} bytes, {manifest.size_bytes} when it came"
    return f"{found}: remove it, and pull or import it again"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
