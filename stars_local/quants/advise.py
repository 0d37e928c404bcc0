"""Which of some files to run on this machine, by a short race of their speed.

Files are timed in turns (A B C, A B C, ...), because speed drifts. Speed alone is told: what a
type loses is another question, and `quants compare` answers it. So among files that cannot be
told apart by their times the one with the most bits a weight is the one to run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stars_local.core.errors import StarsError
from stars_local.core.progress import OnProgress
from stars_local.quants.listing import Listing
from stars_local.quants.timing import N_ANSWER, N_PROMPT, Speed

N_TURNS = 3
LIMIT_S = 120.0
_ALIKE = 0.03  # times nearer than this are one time, however close their runs lie together
Measure = Callable[[Path], Speed]


@dataclass(slots=True)
class Timed:
    """A file's runs. error: why it could not be timed; then it takes no part."""

    listing: Listing
    runs: list[Speed] = field(default_factory=list)
    error: str | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.listing.path.stem

    @property
    def seconds(self) -> float:
        """Of an answer: the median of the runs, of which there must be one."""
        return statistics.median(run.answer_s for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        """The file's figures as JSON values; those of speed only where it was timed."""
        row: dict[str, Any] = {
            "name": self.name,
            **self.listing.as_json(),
            "n_runs": len(self.runs),
        }
        if self.error is not None:
            return {**row, "error": self.error}
        if self.runs:
            middle = min(self.runs, key=lambda run: abs(run.answer_s - self.seconds))
            times = [run.answer_s for run in self.runs]
            row |= middle.as_json()
            row["answer_s"] = {"median": self.seconds, "min": min(times), "max": max(times)}
        return row


def race(
    listings: Sequence[Listing],
    measure: Measure,
    *,
    limit_s: float = LIMIT_S,
    clock: Callable[[], float],
    on_progress: OnProgress,
) -> list[Timed]:
    """Time every file in turn, up to `N_TURNS` times while there is time.

    measure: loads and times one file; a StarsError of it puts the file out of the race. No run
    is begun that would end after `limit_s` if it took as long as the file's last one, or as the
    longest so far of a file that has none. clock: seconds. on_progress: told (stage, done, all).
    """
    began = clock()
    timed = [Timed(each) for each in listings]
    took: dict[int, float] = {}
    total, done = N_TURNS * len(timed), 0
    for _ in range(N_TURNS):
        for at, each in enumerate(timed):
            expected = took.get(at, max(took.values(), default=0.0))
            if each.error is None and clock() - began + expected <= limit_s:
                started = clock()
                try:
                    each.runs.append(measure(each.listing.path))
                except StarsError as error:
                    each.error = str(error)
                took[at] = clock() - started
            done += 1
            on_progress("timing files", done, total)
    return timed


def advise(timed: Sequence[Timed]) -> str:
    """One line: which file to run, and why."""
    ran = [each for each in timed if each.runs and each.error is None]
    if not ran:
        return "no file could be timed"
    fastest = min(ran, key=lambda each: each.seconds)
    alike = [each for each in ran if _alike(each, fastest)]
    best = max(alike, key=lambda each: (each.listing.bpw, -each.seconds))
    speed = best.runs[0]
    at = f"{speed.width} attempts of {_prompts(speed.n_prompts)} together"
    said = (
        f"run {best.name}: {best.seconds:.2f} s for {N_ANSWER} tokens after a prompt of "
        f"{N_PROMPT}, {at}"
    )
    if best is not fastest:
        said += (
            f"; {fastest.name} is no faster beyond the noise, and has "
            f"{fastest.listing.bpw:.1f} bits a weight to its {best.listing.bpw:.1f}"
        )
    elif len(ran) > 1:
        slowest = max(ran, key=lambda each: each.seconds)
        said += f"; the fastest, {slowest.seconds / best.seconds:.1f} times {slowest.name}"
    smallest = min(ran, key=lambda each: each.listing.n_bytes)
    if smallest not in (best, fastest):
        said += f"; {smallest.name} is the smallest, and takes {smallest.seconds:.2f} s"
    return said


def _prompts(n: int) -> str:
    return "one prompt" if n == 1 else f"{n} prompts"


def _alike(one: Timed, fastest: Timed) -> bool:
    """Whether a file's best run is within the fastest file's runs, or as good as."""
    least = min(run.answer_s for run in one.runs)
    most = max(run.answer_s for run in fastest.runs)
    return least <= most or one.seconds <= fastest.seconds * (1 + _ALIKE)
