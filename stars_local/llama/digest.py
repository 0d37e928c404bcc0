"""SHA-256 of files, remembered: hashing gigabytes at every start would take longer than loading."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import platformdirs

_CACHE_NAME = "sha256.json"


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, from the user's cache while size and modification time are the same.

    A cache that cannot be read or written costs time, never correctness. Raises OSError if the
    file itself cannot be read.
    """
    real = path.resolve()
    stat = real.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    cache_path = Path(platformdirs.user_cache_dir("stars-local")) / _CACHE_NAME
    cache = _read(cache_path)
    entry = cache.get(str(real))
    if isinstance(entry, list) and entry[:2] == stamp and len(entry) == 3:
        return str(entry[2])
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    cache[str(real)] = [*stamp, digest]
    _write(cache_path, cache)
    return digest


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, cache: dict[str, object]) -> None:
    """Replace the cache file; a read-only home is no reason to fail."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            temporary = file.name
            json.dump(cache, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
