"""The native library: imported quietly, initialised once, its log kept instead of printed.

Importing `llama_cpp` installs a log callback that writes to stderr and would tear a live
display. Ours keeps the last lines of warnings and errors, so that a refusal can quote them.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections import deque
from types import ModuleType
from typing import Any

from stars_local.core.interrupts import hear_interrupts

_WARN, _ERROR, _CONT = 3, 4, 5  # ggml_log_level
_MAX_LINES = 32

_lines: deque[str] = deque(maxlen=_MAX_LINES)
_lock = threading.Lock()
_level = 0
_callback: Any = None  # the native side keeps a bare pointer: it must never be collected


def _record(level: int, text: bytes, _user_data: object) -> None:
    """Keep a log line of the native library; runs on whatever thread logs."""
    global _level
    with _lock:
        if level != _CONT:
            _level = level
        if _level not in (_WARN, _ERROR):
            return
        line = text.decode("utf-8", "replace")
        if level == _CONT and _lines:
            _lines[-1] += line
        else:
            _lines.append(line)


@functools.cache
def native() -> ModuleType:
    """The low-level functions of llama-cpp-python; the first call loads and initialises them."""
    global _callback
    from llama_cpp import llama_cpp

    hear_interrupts()  # one may fall into the log's callback
    _callback = llama_cpp.llama_log_callback(_record)
    llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    module: ModuleType = llama_cpp
    return module


def forget_log() -> None:
    """Drop the kept log lines; called before an operation whose errors are to be quoted."""
    with _lock:
        _lines.clear()


def last_words() -> str:
    """What the library last complained of, on one line; empty if it did not."""
    with _lock:
        lines = [" ".join(line.split()) for line in _lines]
    return "; ".join(line for line in lines if line)[-400:]


@functools.cache
def build() -> str:
    """Names the build: saved states are only good for the one that wrote them."""
    import llama_cpp

    system = native().llama_print_system_info().decode("utf-8", "replace").strip()
    version = native().llama_version().decode("utf-8", "replace")
    return f"llama-cpp-python {llama_cpp.__version__}, llama.cpp {version}, {system}"
