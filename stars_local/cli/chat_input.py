"""Where a chat's lines come from: a person at a terminal, or a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from stars_local.core.errors import DataError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import Output

PROMPT = "> "
MAX_LINE_BYTES = 16 << 20


class Keyboard:
    """Reads what a person types: several lines, history across runs, Ctrl-C, Ctrl-D.

    history: the file that remembers, made if it is not there. input, output: where keys come
    from and echoes go, the terminal by default.
    """

    def __init__(
        self, history: Path, *, input: Input | None = None, output: Output | None = None
    ) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory

        try:
            history.touch(mode=0o600)
        except OSError as error:
            raise DataError(f"{history}: cannot be written: {error.strerror}") from error
        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(str(history)),
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation=lambda width, *_: "." * (width - 1) + " ",
            input=input,
            output=output,
        )

    def read(self, default: str = "") -> str | None:
        """What was sent, None if the person leaves; `default` stands there to be changed.

        Ctrl-C clears the line: it counts as an empty one.
        """
        try:
            return self._session.prompt(PROMPT, default=default)
        except KeyboardInterrupt:
            return ""
        except EOFError:
            return None


def _keys() -> KeyBindings:
    """Enter sends; Alt-Enter, which a terminal sends as Esc and Enter, begins a new line."""
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def piped_lines(stdin: BinaryIO) -> Iterator[str]:
    """The lines of a pipe that are not empty. Raises DataError for what is not UTF-8 text."""
    n = 0
    while raw := stdin.readline(MAX_LINE_BYTES + 1):
        n += 1
        if len(raw) > MAX_LINE_BYTES:
            raise DataError(f"line {n} of standard input is over {MAX_LINE_BYTES} bytes: cut it")
        try:
            line = raw.decode("utf-8-sig" if n == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(
                f"line {n} of standard input is not valid UTF-8: byte 0x{raw[error.start]:02x} "
                f"at offset {error.start}: convert it to UTF-8"
            ) from error
        if line:
            yield line
