"""Room on the disk, asked for before it is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

from stars_local.core.errors import ModelError

SPARE_BYTES = 16 << 20  # a disk filled to the last byte troubles others


def need_room(folder: Path, n_bytes: int, what: str) -> None:
    """Raise ModelError, with the numbers, where a folder's disk has no room for n_bytes more."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes + SPARE_BYTES:
        raise ModelError(
            f"{folder} has {free >> 20} MiB free, {what} needs {(n_bytes + SPARE_BYTES) >> 20} "
            "MiB: make room, or choose another folder with --models-dir"
        )
