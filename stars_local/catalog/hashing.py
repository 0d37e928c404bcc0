"""SHA-256 of files with progress."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stars_local.core.progress import OnProgress

_CHUNK_BYTES = 4 << 20


def sha256_of(path: Path, stage: str, on_progress: OnProgress) -> str:
    """Hex SHA-256 of the bytes on the disk now, never from a cache. Raises OSError."""
    digest, total = hashlib.sha256(), path.stat().st_size
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            on_progress(stage, done, max(total, done))
    return digest.hexdigest()
