"""Progress bars with time left, on stderr; silent where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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


@contextmanager
def stages(
    console: Console | None = None, *, after_s: float = 0.0
) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar a stage; yields a function of (stage, done, total).

    after_s: what is done in fewer seconds is not shown. Not a terminal: a plain line when a
    stage begins and when it ends.
    """
    began = time.monotonic()
    screen = Console(stderr=True) if console is None else console
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    tasks = {}
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as bars:

        def advance(stage: str, done: int, total: int) -> None:
            if time.monotonic() - began < after_s:
                return
            if not screen.is_terminal and done in (1, total):
                screen.print(f"{stage}: {done} of {total}", highlight=False)
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield advance
