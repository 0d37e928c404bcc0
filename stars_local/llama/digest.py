"""SHA-256 of files, remembered: hashing gigabytes at every start would take longer than loading."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stars_local.llama.disk_cache import DiskCache


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, from the user's cache while size and modification time are the same.

    Raises OSError if the file cannot be read.
    """
    real = path.resolve()
    stat = real.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    cache = DiskCache("sha256")
    known = cache.get(str(real))
    if isinstance(known, list) and len(known) == 3 and known[:2] == stamp:
        return str(known[2])
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    cache.put(str(real), [*stamp, digest])
    return digest
