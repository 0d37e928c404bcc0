"""What a model file must be: size, hash, and where it came from; one small JSON file each."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from stars_local.catalog.known import KNOWN
from stars_local.core.errors import ModelError
from stars_local.core.files import write_atomically
from stars_local.core.strict_json import is_unicode, parse_json

FOLDER = "manifests"
SCHEMA = 1
MAX_BYTES = 64 << 10
MAX_LICENCE_CHARS = 200
_MAX_READ_CHARS = 2000  # of a text that may have megabytes
_BAD = r"/\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"  # no control of a line or a terminal
_PLAIN_NAME = re.compile(rf"[^{_BAD}.][^{_BAD}]*\.gguf")


@dataclass(frozen=True, slots=True)
class FileManifest:
    """file_name has no folder in it; source is what `models pull` was given, or `import:PATH`;
    licence is None where nobody said."""

    file_name: str
    source: str
    size_bytes: int
    sha256: str
    licence: str | None = None


def is_plain_name(name: str) -> bool:
    """Whether a name can only mean a visible GGUF file in the folder itself, as any terminal
    shows it."""
    return len(name.encode("utf-8", "replace")) <= 200 and _PLAIN_NAME.fullmatch(name) is not None


def clean_licence(text: str | None) -> str | None:
    """A licence as manifests take it: one line of printable text, cut short; None for none.

    Files say of themselves what they like, whole licences included.
    """
    words = " ".join(text[:_MAX_READ_CHARS].split()) if text is not None else ""
    shown = "".join(char if char.isprintable() else "?" for char in words)
    cut = len(shown) > MAX_LICENCE_CHARS
    return (shown[: MAX_LICENCE_CHARS - 1] + "…" if cut else shown) or None


def manifest_of(folder: Path, file_name: str) -> FileManifest | None:
    """The manifest of a file of the models folder, None where nothing is known about it.

    What this version knows itself goes before what lies in the folder. Raises ModelError for a
    manifest that cannot be read.
    """
    for model in KNOWN.values():
        if model.file_name == file_name:
            return FileManifest(
                file_name, model.source, model.size_bytes, model.sha256, model.licence
            )
    path = manifest_path(folder, file_name)
    return read_manifest(path, file_name) if path.is_file() else None


def named_by_manifests(folder: Path) -> list[str]:
    """The files that the folder's manifests are about, sorted."""
    return sorted(path.name.removesuffix(".json") for path in (folder / FOLDER).glob("*.gguf.json"))


def write_manifest(folder: Path, manifest: FileManifest) -> None:
    """Write a manifest; it appears whole or not at all. Raises OSError."""
    path = manifest_path(folder, manifest.file_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, manifest_bytes(manifest))


def manifest_bytes(manifest: FileManifest) -> bytes:
    """What a manifest's file holds."""
    # a path may hold bytes that are no text: JSON would carry them as half characters
    source = manifest.source.encode("utf-8", "backslashreplace").decode()
    known = asdict(replace(manifest, source=source))
    return (json.dumps({"schema": SCHEMA, **known}, indent=1) + "\n").encode()


def remove_manifest(folder: Path, file_name: str) -> None:
    """Remove a file's manifest where there is one."""
    manifest_path(folder, file_name).unlink(missing_ok=True)


def manifest_path(folder: Path, file_name: str) -> Path:
    """Where a file's manifest lies."""
    return folder / FOLDER / f"{file_name}.json"


def read_object(path: Path, schema: int, keys: Collection[str]) -> dict[str, Any]:
    """The JSON object of a small file, without its `schema`.

    Raises ValueError for a large file and for another schema or other keys than these; OSError.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    found = parse_json(content)
    if not isinstance(found, dict) or found.pop("schema", None) != schema:
        raise ValueError(f"no object of schema {schema}")
    if set(found) != set(keys):
        raise ValueError(f"other keys than {', '.join(sorted(keys))}")
    return found


def is_sha256(value: object) -> bool:
    """Whether a value is a sha256 as we write it, 64 small hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def read_manifest(path: Path, file_name: str) -> FileManifest:
    """The manifest of `file_name` that a file holds; ModelError where it holds none."""
    try:
        keys = {field.name for field in fields(FileManifest)}
        manifest = FileManifest(**read_object(path, SCHEMA, keys))
        size, licence = manifest.size_bytes, manifest.licence
        if manifest.file_name != file_name or not is_plain_name(file_name):
            raise ValueError("it is about another file")
        if type(size) is not int or size < 0 or not isinstance(manifest.source, str):
            raise ValueError("a size or a source that is none")
        if not is_sha256(manifest.sha256):
            raise ValueError("a sha256 that is none")
        if licence is not None and not isinstance(licence, str):
            raise ValueError("a licence that is no text")
        if not is_unicode(f"{manifest.source}{licence}"):
            raise ValueError("half a character in a text")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: not a manifest ({error}): remove it, and pull or import the model again"
        ) from error
    return manifest
