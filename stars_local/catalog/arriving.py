"""A file and its manifest appear together, whenever the process that brings them is killed.

What the file will be stands in `downloads/NAME.arriving.json` before it gets its name, and becomes
its manifest afterwards. Whoever next holds the file's lock ends what a killed process began.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stars_local.catalog.folder import downloads_folder
from stars_local.catalog.hashing import sha256_of
from stars_local.catalog.manifests import (
    FileManifest,
    manifest_bytes,
    manifest_path,
    read_manifest,
)
from stars_local.core.errors import ModelError
from stars_local.core.files import write_atomically
from stars_local.core.progress import OnProgress


@contextmanager
def arriving(folder: Path, manifest: FileManifest, on_progress: OnProgress) -> Iterator[None]:
    """The block gives the file its name; its manifest is there when the block ends well.

    The file's lock is the caller's. Raises OSError.
    """
    note = _note(folder, manifest.file_name)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, manifest_bytes(manifest))
    try:
        yield
        _promote(note, folder, manifest.file_name)
    except BaseException:
        settle(folder, manifest.file_name, on_progress)
        raise


def settle(folder: Path, file_name: str, on_progress: OnProgress) -> None:
    """End what a killed process began with a file: its manifest is there if the file is.

    The file's lock is the caller's. Raises OSError.
    """
    note = _note(folder, file_name)
    if not note.is_file():
        return
    path = folder / file_name
    try:
        expected = read_manifest(note, file_name)
        came = (
            path.is_file()
            and path.stat().st_size == expected.size_bytes
            and sha256_of(path, f"checking {file_name}", on_progress) == expected.sha256
        )
    except ModelError:
        came = False  # cut short by the machine's end: it says nothing
    if came:
        _promote(note, folder, file_name)
    else:
        note.unlink(missing_ok=True)


def _note(folder: Path, file_name: str) -> Path:
    return downloads_folder(folder) / f"{file_name}.arriving.json"


def _promote(note: Path, folder: Path, file_name: str) -> None:
    path = manifest_path(folder, file_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    note.replace(path)
