"""The live view of an answer: accepted text for good, below it the segment at work.

    A calm walk before the talk helps, and so does writing down the one
    thing you want to                                      <- the last row is still growing
    ####------ segment 3  attempt 5 of 20  reward -0.312  tau 0.120  p 0.02

Rows of accepted text are printed once they are full; the last row and the status line are
drawn anew with every event and are gone when the answer ends. Consumers of the events decide
nothing, and neither does this one.
"""

from __future__ import annotations

import math
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from stars_local.cli.terminal import neutralise
from stars_local.core.events import Drawing, Event, Finished, Judged, Kept
from stars_local.core.records import Attempt, Outcome

_BAR_CELLS = 10
_TAB = 4
_INDENT = 6  # of the further rows of a rejected attempt
_SPLIT_WORDS_OVER = 3  # a word longer than a third of the row is cut, not moved


class LiveView:
    """Shows one answer on a console of which it takes the last rows; use it with `with`.

    show_rejected: leave rejected attempts on the screen, dimmed, where they happened.
    animate: draw the transient part; without it only what stays is printed.
    """

    def __init__(
        self, console: Console, *, show_rejected: bool = False, animate: bool = True
    ) -> None:
        self._console = console
        self._show_rejected = show_rejected
        self._row = ""  # the growing row of accepted text
        self._was_broken = False  # whether a rejected attempt ended the row before it was full
        self._status: Text | None = None
        self._max_attempts = 1
        self._live = (
            Live(
                console=console,
                auto_refresh=False,
                transient=True,
                get_renderable=self.transient,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="visible",
            )
            if animate
            else None
        )

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Whatever ended the answer, its last row stays and the status line goes."""
        row, self._row, self._status = self._row, "", None
        if self._live is not None:
            self._live.stop()
        if row:
            self._print(Text(row))

    def show(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, Drawing):
            self._max_attempts = event.max_attempts
            self._status = self._drawing(event)
        elif isinstance(event, Judged):
            self._judged(event.attempt)
        elif isinstance(event, Kept | Finished):
            self._status = None
            self._write(event.printable)
        if self._live is not None:
            self._live.refresh()

    def transient(self) -> RenderableType:
        """What is drawn anew with every event: the growing row, the status line."""
        parts = [Text(self._row)] if self._row else []
        if self._status is not None:
            parts.append(self._status)
        return Group(*parts)

    # -- what stays --------------------------------------------------------------------------

    def _write(self, printable: str) -> None:
        """Add accepted text; rows that are full are printed for good."""
        shown = neutralise(printable).expandtabs(_TAB)
        if self._was_broken and shown:
            shown, self._was_broken = shown.removeprefix(" "), False
        *full, self._row = wrap(self._row + shown, self._console.width)
        if full:
            self._print(Text("\n".join(full)))

    def _judged(self, attempt: Attempt) -> None:
        if attempt.outcome is Outcome.SPARE:
            return
        self._status = self._judgement(attempt)
        if self._show_rejected and attempt.outcome is Outcome.REJECTED:
            if self._row:
                self._print(Text(self._row))
                self._row, self._was_broken = "", True
            self._print(self._rejected(attempt))

    def _rejected(self, attempt: Attempt) -> Text:
        head = f"  x {attempt.index + 1}  reward {number(attempt.reward)}  "
        head += f"tau {number(attempt.threshold)}  "
        shown = neutralise(attempt.text).replace("\n", " ").strip()
        rows = wrap(f"{head}{shown}", max(2, self._console.width - _INDENT))
        return Text(("\n" + " " * _INDENT).join(rows), style="dim")

    def _print(self, text: Text) -> None:
        self._console.print(text, highlight=False, soft_wrap=False, overflow="fold")

    # -- the status line ---------------------------------------------------------------------

    def _drawing(self, event: Drawing) -> Text:
        last = event.first + event.n
        which = f"{last}" if event.n == 1 else f"{event.first + 1}-{last}"
        return self._line(event.segment, event.first, f"attempt {which} of {event.max_attempts}")

    def _judgement(self, attempt: Attempt) -> Text:
        n = attempt.index + 1
        line = self._line(attempt.segment, n, f"attempt {n} of {self._max_attempts}")
        if attempt.reward is not None:
            style = "red" if attempt.outcome is Outcome.REJECTED else "green"
            line.append(f"  reward {number(attempt.reward)}", style)
            line.append(f"  tau {number(attempt.threshold)}")
            line.append(f"  p {number(attempt.probability, 2)}")
        return line

    def _line(self, segment: int, n_judged: int, attempt: str) -> Text:
        ascii_only = self._console.options.ascii_only
        done, left = ("#", "-") if ascii_only else ("█", "░")
        filled = min(_BAR_CELLS, math.ceil(_BAR_CELLS * n_judged / self._max_attempts))
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(done * filled + left * (_BAR_CELLS - filled), "cyan")
        line.append(f" segment {segment + 1}  {attempt}", "bold")
        return line


def number(value: float | None, digits: int = 3) -> str:
    """A reward, threshold or probability as shown: a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def wrap(text: str, width: int) -> list[str]:
    """Rows of at most `width` cells, broken at spaces where there are any; never none.

    The rows together are the text without its newlines and without the spaces at which rows
    were broken: adding text to the last row and wrapping again changes no earlier row.
    """
    rows: list[str] = []
    for line in text.split("\n"):
        rest = line
        while cell_len(rest) > width:
            row, rest = _first_row(rest, width)
            rows.append(row)
        rows.append(rest)
    return rows


def _first_row(line: str, width: int) -> tuple[str, str]:
    """The row that a line begins with, and what follows it."""
    n_fit, cells = 0, 0
    for char in line:
        cells += cell_len(char)
        if cells > width:
            break
        n_fit += 1
    n_fit = max(1, n_fit)
    at = line.rfind(" ", 0, n_fit + 1)
    if at > 0 and n_fit - at <= width // _SPLIT_WORDS_OVER:
        return line[:at], line[at + 1 :]
    return line[:n_fit], line[n_fit:]
