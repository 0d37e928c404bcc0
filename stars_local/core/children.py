"""How this package starts Python processes of its own, for what may hang, die or crash."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_ROOT = Path(__file__).resolve().parents[2]


def die_with_parent() -> None:
    """In a child: be killed when the process that started it ends, however it does.

    Linux alone can promise that; elsewhere a child whose parent was killed goes on to its end.
    """
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)


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
