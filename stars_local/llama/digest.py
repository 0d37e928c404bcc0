"""SHA-256 of files, remembered: hashing gigabytes at every start would take longer than loading."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from stars_local.llama.disk_cache import DiskCache


def file_stamp(path: Path) -> list[int]:
    """What changes when a file does: inode, size in bytes, times of content and of status in ns.

    The last cannot be set, so a file that was replaced by one of the same size and time shows.
    Raises OSError.
    """
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def model_sha256(parts: Sequence[Path]) -> str:
    """The hex digest that a model goes by: its file's, or of the digests of all its parts in
    order, a line each, so that any other part makes it another model. Raises OSError."""
    digests = [file_sha256(part) for part in parts]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, from the user's cache while its stamp is the same.

    Raises OSError if the file cannot be read.
    """
    real = path.resolve()
    stamp = file_stamp(real)
    cache = DiskCache("sha256")
    known = cache.get(str(real))
    if isinstance(known, list) and known[:-1] == stamp:
        return str(known[-1])
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    cache.put(str(real), [*stamp, digest])
    return digest
