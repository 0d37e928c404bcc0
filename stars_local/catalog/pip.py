"""pip, in a process of its own that ends with this one; a compiler it began may end later."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import IO

from stars_local.core.children import child_command, child_environment, lifeline
from stars_local.core.errors import NetworkError

_RESUMES_SINCE = (25, 1)
_TRIES = "5"
_PROGRAM = """
from stars_local.core.children import end_with_parent
end_with_parent()
import runpy
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def package_name(name: str) -> str:
    """A package's name as all spellings of it are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


class _Terminated(BaseException):
    """SIGTERM came."""


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """While open, SIGTERM first unwinds what is open inside: scratch folders, processes begun.

    The process ends by the signal all the same. Other threads than the main one are left alone:
    Python lets them handle no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is being cleared up is cleared up
        raise _Terminated

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    except _Terminated:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def run_pip(
    arguments: Sequence[str], scratch: Path, *, into: IO[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run pip, asking nothing, with `scratch` for its own temporary files.

    into: where it may write as it goes; without one what it says is in the result. Raises
    NetworkError where this Python has no pip. pip is gone when this returns or
    raises, and when this process is killed meanwhile.
    """
    if importlib.util.find_spec("pip") is None:
        raise NetworkError(
            f"{sys.executable} has no pip, which fetches packages: 'python -m ensurepip' adds it"
        )
    kept = subprocess.PIPE if into is None else into
    with (
        lifeline() as held,
        subprocess.Popen(
            child_command(_PROGRAM, *arguments, "--no-input"),
            stdin=held,
            stdout=kept,
            stderr=subprocess.PIPE if into is None else None,
            text=True,
            errors="replace",
            env={**child_environment(gpu=True), "TMPDIR": str(scratch)},
        ) as process,
    ):
        try:
            said, complained = process.communicate()
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


def resuming() -> list[str]:
    """The options that let this pip go on with a broken download, none where it cannot."""
    found = re.match(r"(\d+)\.(\d+)", version("pip"))
    able = found is not None and (int(found[1]), int(found[2])) >= _RESUMES_SINCE
    return ["--resume-retries", _TRIES] if able else []
