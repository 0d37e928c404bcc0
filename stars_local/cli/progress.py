"""Progress bars with time left, on stderr; silent where nobody watches."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from stars_local.cli.terminal import neutralise
from stars_local.core.progress import OnProgress

LINE_EVERY_S = 30.0


@contextmanager
def stages(console: Console | None = None, *, after_s: float = 0.0) -> Iterator[OnProgress]:
    """Show a bar a stage; yields a function of (stage, done, total).

    after_s: what is done in fewer seconds is not shown. Not a terminal: a plain line when a
    stage begins and when it ends, and every half minute between, with the time left. Stages may
    name files: no escape sequence, line break or markup in a name is obeyed.
    """
    began = time.monotonic()
    lines: dict[str, tuple[float, int, float]] = {}  # stage: when and where it began, last line
    screen = Console(stderr=True) if console is None else console
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left", markup=False),
        TimeRemainingColumn(),
    )
    tasks = {}

    def say(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, first, last = lines.get(stage, (now, done, -math.inf))
        if done < total and now - last < LINE_EVERY_S:
            return
        left = ""
        if first < done < total:
            seconds = (now - start) / (done - first) * (total - done)
            left = f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"
        line = f"{_shown(stage)}: {done} of {total}{left}"
        screen.print(line, highlight=False, markup=False, emoji=False)
        lines[stage] = (start, first, now)

    with Progress(*columns, console=screen, disable=not screen.is_terminal) as bars:

        def advance(stage: str, done: int, total: int) -> None:
            if time.monotonic() - began < after_s:
                return
            if not screen.is_terminal:
                say(stage, done, total)
            if stage not in tasks:
                tasks[stage] = bars.add_task(_shown(stage), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield advance


def _shown(stage: str) -> str:
    return neutralise(" ".join(stage.split()))
