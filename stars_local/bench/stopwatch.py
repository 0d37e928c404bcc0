"""Where the time of a run goes: timers put around calls from outside, and taken off again.

The code that is timed knows nothing of it and pays nothing when nobody looks. Each part is
charged its own time only: what a timed call spends inside another timed call goes to that one,
so that the parts and the rest add up to the whole.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

REST = "rest"


@dataclass(frozen=True, slots=True)
class Probe:
    """A call to time: the attribute `name` of `owner`, a class or a module, counted as `part`.

    settle: called with the call's arguments after it, still inside its time, where the work is
    only queued when the call returns.
    """

    part: str
    owner: Any
    name: str
    settle: Callable[..., None] | None = None


class Stopwatch:
    """Adds up the seconds of parts, for one thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._open: list[str] = []
        self._since = 0.0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def counting(self, part: str) -> Iterator[None]:
        """The time from here on belongs to `part`, until its end or another part within."""
        self._charge()
        self._open.append(part)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    @contextmanager
    def attached(self, probes: Sequence[Probe]) -> Iterator[None]:
        """Time these calls inside the block; everything else in it is the rest."""
        before = [(probe, probe.owner.__dict__[probe.name]) for probe in probes]
        try:
            for probe, call in before:
                setattr(probe.owner, probe.name, self._timed(probe, call))
            with self.counting(REST):
                yield
        finally:
            for probe, call in before:
                setattr(probe.owner, probe.name, call)

    def shares(self) -> dict[str, float]:
        """Each part's share of all seconds counted; the shares add up to 1."""
        whole = sum(self.seconds.values())
        if whole <= 0:
            raise ValueError("no time was counted: run something while it is attached")
        return {part: seconds / whole for part, seconds in self.seconds.items()}

    def _charge(self) -> None:
        now = self._clock()
        if self._open:
            part = self._open[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    def _timed(self, probe: Probe, call: Callable[..., Any]) -> Callable[..., Any]:
        part, settle = probe.part, probe.settle

        @functools.wraps(call)
        def timed(*args: Any, **named: Any) -> Any:
            with self.counting(part):
                found = call(*args, **named)
                if settle is not None:
                    settle(*args, **named)
                return found

        return timed
