"""Ctrl-C where Python has no place to raise it."""

from __future__ import annotations

import sys
from typing import Any

_DELAY_S = 0.01  # until what could not raise it has returned

_before = sys.unraisablehook


def hear_interrupts() -> None:
    """Tell a Ctrl-C once more that fell where nothing can be raised.

    Python prints and drops an interrupt that arrives inside a callback of native code, of its
    import lock or of a finaliser. From this call on it is raised in the main thread a moment later.
    """
    global _before
    if sys.unraisablehook is not _hook:
        _before, sys.unraisablehook = sys.unraisablehook, _hook


def _hook(unraisable: Any) -> None:
    if unraisable.exc_type is not KeyboardInterrupt:
        _before(unraisable)
        return
    import threading

    threading.Timer(_DELAY_S, _interrupt_main_thread).start()


def _interrupt_main_thread() -> None:
    import signal
    import threading

    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:  # to that thread itself: what it waits for, a line typed say, is broken off
        ident = threading.main_thread().ident
        assert ident is not None
        signal.pthread_kill(ident, signal.SIGINT)
