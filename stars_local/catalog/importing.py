"""Taking in model files that are on this machine already."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stars_local.catalog.arriving import arriving, settle
from stars_local.catalog.folder import downloads_folder, locked
from stars_local.catalog.hashing import sha256_of
from stars_local.catalog.known import KNOWN
from stars_local.catalog.manifests import FileManifest, is_plain_name
from stars_local.catalog.sources import part_names
from stars_local.catalog.space import need_room
from stars_local.core.errors import ModelError, UsageError
from stars_local.core.files import appearing
from stars_local.core.progress import OnProgress
from stars_local.llama.gguf_check import check_gguf, probe_in_child

_CHUNK_BYTES = 4 << 20


def import_model(path: Path, folder: Path, on_progress: OnProgress, *, copy: bool) -> list[Path]:
    """Link or copy a model file, all parts of it if it is split, into the models folder.

    The header is checked, and llama.cpp tries the file in a process of its own, before
    anything is written. Importing a file again refreshes its manifest. Raises ModelError, or
    UsageError for a name that a model file cannot have; files that are here stay.
    """
    if not is_plain_name(path.name):
        raise UsageError(
            f"{path.name!r}: a model file's name ends in .gguf and has no control "
            "characters: rename it"
        )
    check_gguf(path)
    on_progress(f"trying {path.name}", 0, 1)
    probe_in_child(path)
    on_progress(f"trying {path.name}", 1, 1)
    return [
        _take(path.with_name(name), folder, on_progress, copy=copy)
        for name in part_names(path.name)
    ]


def _take(origin: Path, folder: Path, on_progress: OnProgress, *, copy: bool) -> Path:
    target = folder / origin.name
    with locked(folder, origin.name, on_progress):
        try:
            settle(folder, origin.name, on_progress)
            source = origin.resolve(strict=True)
            digest = sha256_of(source, f"hashing {origin.name}", on_progress)
            here = target.exists() and (
                source == target.resolve() or _is_same(source, target, digest, on_progress)
            )
            if not here and (target.exists() or target.is_symlink()):
                raise ModelError(f"{target} is here already: remove it first, or rename {origin}")
            for model in KNOWN.values():
                if model.file_name == origin.name and model.sha256 != digest:
                    raise ModelError(
                        f"{origin} has the name of a known model and other bytes (sha256 "
                        f"{digest[:12]}…, {model.sha256[:12]}… expected): rename it"
                    )
            size = source.stat().st_size
            said = FileManifest(origin.name, f"import:{source}", size, digest)
            with arriving(folder, said, on_progress):
                if not here and copy:
                    _copy(source, target, digest, on_progress)
                elif not here:
                    target.symlink_to(source)
        except OSError as error:
            raise ModelError(f"{origin} cannot be imported into {folder}: {error}") from error
    return target


def _is_same(source: Path, target: Path, sha256: str, on_progress: OnProgress) -> bool:
    """Whether a file holds the same bytes: an import may have been killed before its manifest."""
    if source.stat().st_size != target.stat().st_size:
        return False
    return sha256_of(target, f"hashing {target}", on_progress) == sha256


def _copy(source: Path, target: Path, sha256: str, on_progress: OnProgress) -> None:
    # a name of its own: what a pull has fetched of another file of this name stays untouched
    scratch = downloads_folder(target.parent)
    scratch.mkdir(parents=True, exist_ok=True)
    total, done, digest = source.stat().st_size, 0, hashlib.sha256()
    need_room(scratch, total, target.name)
    with source.open("rb") as reader, appearing(target, scratch=scratch) as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            on_progress(f"copying {target.name}", done, max(total, done))
        if digest.hexdigest() != sha256:
            raise ModelError(f"{source} changed while it was copied: import it again")
