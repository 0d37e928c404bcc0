"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from stars_local.core.errors import DataError

_YOUNG_S = 10.0  # between making and locking its file a writer needs microseconds


def write_atomically(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file by a temporary neighbour, fsync and rename. Raises OSError, and leaves nothing.

    private: for its owner's eyes only; otherwise readable as the umask allows.
    """
    with appearing(path, 0o600 if private else None) as file:
        file.write(data)


@contextlib.contextmanager
def appearing(
    path: Path, mode: int | None = None, *, scratch: Path | None = None
) -> Iterator[IO[bytes]]:
    """A file to write that is at `path`, whole and on the disk, when the block ends well.

    mode: its permissions, None for those that the umask allows. scratch: a folder of the same
    disk to write it in, None for its own. Whatever the block raises leaves nothing. What writers
    that were killed left in that folder is swept away. Raises OSError.
    """
    with scratch_file(path if scratch is None else scratch / path.name) as (name, file):
        yield file
        _settle(name, file, path, mode)


@contextlib.contextmanager
def appearing_by_name(path: Path) -> Iterator[Path]:
    """As `appearing`, for writers that want a name and open it themselves: native code."""
    with scratch_file(path) as (name, file):
        yield name
        _settle(name, file, path, None)


@contextlib.contextmanager
def scratch_file(beside: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """An empty file for a while, in the folder of `beside`: its name, and itself to write.

    It is gone when the block ends; should this process be killed, the next writer in the folder
    removes it. Raises OSError.
    """
    import fcntl

    descriptor, text = tempfile.mkstemp(".unfinished", f".{beside.name[:100]}.", beside.parent)
    name = Path(text)
    try:
        with os.fdopen(descriptor, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # says that its writer lives
            _sweep(beside.parent)
            yield name, file
    finally:
        name.unlink(missing_ok=True)


def _settle(name: Path, file: IO[bytes], path: Path, mode: int | None) -> None:
    file.flush()
    os.fsync(file.fileno())
    if mode is None:  # mkstemp makes files for their owner only
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    name.chmod(mode)
    name.replace(path)


def _sweep(folder: Path) -> None:
    """Remove the unfinished files that no process is writing any more."""
    import fcntl

    for left in folder.glob(".*.unfinished"):
        with contextlib.suppress(OSError), left.open("rb") as file:  # another may sweep as well
            if time.time() - left.stat().st_mtime > _YOUNG_S:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()


def sha256_of(path: Path) -> str:
    """The file's sha256 as hexadecimal digits; DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
