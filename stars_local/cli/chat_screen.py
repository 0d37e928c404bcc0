"""Where a chat is shown: a terminal with a live view, or plain text for everything else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console, RenderableType
from rich.text import Text

from stars_local.chat.talk import TurnsLeft
from stars_local.cli.live import LiveView
from stars_local.cli.terminal import TextWriter, neutralise
from stars_local.core.events import Event, Finished, Kept
from stars_local.core.records import Result

PLAIN_COLUMNS = 80


class Screen(Protocol):
    """Shows answers as they are drawn, pages, and notes of one line."""

    def play(self, events: Iterator[Event | TurnsLeft]) -> Result:
        """Show an answer; returns how it ended."""
        ...

    def page(self, page: RenderableType) -> None:
        """Show what a command asked for."""
        ...

    def note(self, text: str | Text) -> None:
        """Say something that is neither answer nor page."""
        ...


class TerminalScreen:
    """A terminal that understands cursor movements."""

    def __init__(self, console: Console, *, show_rejected: bool = False) -> None:
        self._console = console
        self._show_rejected = show_rejected

    def play(self, events: Iterator[Event | TurnsLeft]) -> Result:
        """Show an answer in a live view."""
        with LiveView(self._console, show_rejected=self._show_rejected) as view:
            for event in events:
                if isinstance(event, TurnsLeft):
                    self.note(left_note(event))
                    continue
                view.show(event)
                if isinstance(event, Finished):
                    result = event.result
        return result

    def page(self, page: RenderableType) -> None:
        """Print it."""
        self._console.print(page, highlight=False)

    def note(self, text: str | Text) -> None:
        """Print it dimmed."""
        shown = text if isinstance(text, Text) else Text(neutralise(text), style="dim")
        self._console.print(shown, highlight=False)


class PlainScreen:
    """No terminal: answers and pages on standard output, notes on standard error."""

    def __init__(self) -> None:
        self._write = TextWriter(sys.stdout).write
        self._pages = Console(
            file=sys.stdout, width=PLAIN_COLUMNS, force_terminal=False, color_system=None
        )

    def play(self, events: Iterator[Event | TurnsLeft]) -> Result:
        """Write text as it becomes final, and a newline however the answer ends."""
        try:
            for event in events:
                if isinstance(event, TurnsLeft):
                    self.note(left_note(event))
                elif isinstance(event, Kept):
                    self._write(event.printable)
                elif isinstance(event, Finished):
                    self._write(event.printable)
                    result = event.result
        finally:
            self._write("\n")
        return result

    def page(self, page: RenderableType) -> None:
        """Print it without colours."""
        self._pages.print(page, highlight=False)

    def note(self, text: str | Text) -> None:
        """A line on standard error."""
        for line in neutralise(str(text)).splitlines():
            print(f"stars-local: {line}", file=sys.stderr)


def left_note(event: TurnsLeft) -> str:
    """What a person is told when the context was full."""
    turns = "the oldest turn" if event.n_turns == 1 else f"the {event.n_turns} oldest turns"
    return f"the context is full: {turns} left it, the model no longer sees them"
