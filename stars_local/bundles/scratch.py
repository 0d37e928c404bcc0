"""A folder for a while beside a file to be: gone afterwards, or else with the next bundle."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_BEGIN, _END = ".bundle-", ".unfinished"
_YOUNG_S = 10.0  # between making and locking its folder a process needs microseconds


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """An empty folder beside a file; should this process be killed, `sweep` removes it later.

    Raises OSError.
    """
    import fcntl

    with tempfile.TemporaryDirectory(_END, _BEGIN, beside.parent) as text:
        descriptor = os.open(text, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # says that its owner lives
            yield Path(text)
        finally:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the scratch folders in it whose processes have ended."""
    import fcntl

    for left in folder.glob(f"{_BEGIN}*{_END}"):
        with suppress(OSError):  # another may sweep as well
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if time.time() - os.fstat(descriptor).st_mtime > _YOUNG_S:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left)
            finally:
                os.close(descriptor)
