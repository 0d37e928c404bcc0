"""What may reach a terminal, and how a person's Ctrl-C reaches a driver."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

# C0 controls but newline and tab become their pictures, DEL too; C1 controls, and those that
# make a terminal write backwards, become an escape in ASCII
_NEUTRAL = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
    **{code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}

_BREAKS = {ord("\n"): "\u240a", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def neutralise(text: str) -> str:
    """Text whose control characters are shown instead of obeyed: no escape sequence survives.

    Nor does half a character, as the names of files may hold: no stream could write it.
    """
    return text.translate(_NEUTRAL).encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """As `neutralise`, with line breaks shown as well: nothing in it can look like another line."""
    return neutralise(text.translate(_BREAKS))


class TextWriter:
    """Writes model output to a stream: neutralised to a terminal, as it is anywhere else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._clean = stream.isatty()

    def write(self, text: str) -> None:
        """Write and flush; characters that the stream's encoding lacks are replaced."""
        shown = neutralise(text) if self._clean else text
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(shown.encode(encoding, "replace").decode(encoding))
        self._stream.flush()


@contextmanager
def interrupting(interrupt: Callable[[], None]) -> Iterator[None]:
    """While open, the first Ctrl-C calls `interrupt`; the second is a KeyboardInterrupt."""

    def handle(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupt()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
