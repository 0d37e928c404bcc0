"""What every reader of a foreign file owes: an answer or one clean error, soon, and no write.

The number of cases is `STARS_LOCAL_FUZZ_CASES` (by default a few, for the everyday run).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings

from stars_local.core.errors import StarsError

CASES = int(os.environ.get("STARS_LOCAL_FUZZ_CASES", "60"))
LIMIT_S = 10.0
_MAX_MESSAGE_CHARS = 4000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {f"os.{name}" for name in ("mkdir", "rename", "remove", "rmdir", "link", "symlink")}
_FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"}


def cases(share: float = 1.0) -> settings:
    """Settings of a fuzz test; share: of the cases, for what takes milliseconds each."""
    return settings(
        max_examples=max(10, round(CASES * share)),
        deadline=None,
        derandomize=CASES <= 60,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Hung(Exception):
    """A reader took longer than `LIMIT_S`."""


def refused_cleanly(read: Callable[[], object], *, may_start: bool = False) -> str | None:
    """Call; the message of its StarsError, None where it took the input.

    Anything else that is raised passes through and fails the test, as do a message of several
    lines or none, a call that hangs, and a file opened for writing. may_start: whether the
    reader tries the file in another process.
    """
    try:
        with _in_time(), _watched(_FORBIDDEN - {"subprocess.Popen"} if may_start else _FORBIDDEN):
            read()
    except StarsError as error:
        message = str(error)
        assert message.strip(), "an error without words"
        assert len(message) <= _MAX_MESSAGE_CHARS, f"{len(message)} characters: {message[:200]!r}"
        return message
    return None


@contextmanager
def _in_time() -> Iterator[None]:
    def late(_signal: int, _frame: FrameType | None) -> None:
        raise Hung(f"still reading after {LIMIT_S:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_watching: list[set[str]] = []  # an audit hook stays for good: this says when it listens
_seen: list[str] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _WRITES and not _is_scratch(path):
            _seen.append(f"opened {path!r} to write")
    elif (event in _CHANGES and not _is_scratch(arguments[0])) or event in _watching[-1]:
        _seen.append(f"{event} {arguments!r}"[:200])


def _is_scratch(path: object) -> bool:
    """Whether writing there says nothing: devices, nameless temporary files, compiled modules,
    and the cache folder, where good verdicts are remembered."""
    text = os.fsdecode(path) if isinstance(path, str | bytes | Path) else ""
    places = ("/dev/", os.environ.get("XDG_CACHE_HOME", "/dev/"))
    return text.startswith(places) or "__pycache__" in text or text in ("", "/tmp")


sys.addaudithook(_listen)


@contextmanager
def _watched(forbidden: set[str]) -> Iterator[None]:
    _seen.clear()
    _watching.append(forbidden)
    try:
        yield
    finally:
        _watching.pop()
    assert not _seen, _seen
