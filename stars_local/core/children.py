"""How this package starts Python processes of its own, for what may hang, die or crash."""

from __future__ import annotations

import _thread
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def lifeline() -> Iterator[int]:
    """A file descriptor to give a child as its stdin, for `end_with_parent`.

    Nothing is ever written to it: it ends when this process does, by whatever signal.
    """
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def end_with_parent() -> None:
    """In a child whose stdin is a `lifeline`: end when the process that started it has ended."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(1)

    _thread.start_new_thread(watch, ())


def child_command(program: str, *arguments: str) -> list[str]:
    """The command line of this Python with `program` as its code.

    -P: a module of the same name in the working directory must not be imported.
    """
    return [sys.executable, "-P", "-c", program, *arguments]


def child_environment(*, gpu: bool) -> dict[str, str]:
    """The environment of such a process: this package can be imported in it, wherever it stands.

    gpu: whether CUDA devices are shown to it; waking one takes seconds.
    """
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    found = {**os.environ, "PYTHONPATH": path}
    found["GGML_NO_BACKTRACE"] = "1"  # else a failing assertion of ggml looks for a debugger
    if not gpu:
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found
