"""How this package starts Python processes of its own, for what may hang, die or crash."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


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
