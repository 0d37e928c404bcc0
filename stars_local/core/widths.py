"""How many attempts are drawn in one batch.

A policy looks at the past only: the width of a round never depends on what the round draws, so
every policy leaves the law of the accepted segment as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


class WidthPolicy(Protocol):
    """Chooses the width of the next round from the acceptances seen so far."""

    def next_width(self) -> int:
        """Attempts to draw together next, at least 1."""
        ...

    def observe(self, *, accepted: bool) -> None:
        """Learn the verdict of one judged attempt."""
        ...


@dataclass(slots=True)
class FixedWidth:
    """The same width always."""

    width: int

    def next_width(self) -> int:
        """The fixed width."""
        return self.width

    def observe(self, *, accepted: bool) -> None:
        """Nothing to learn."""


@dataclass(slots=True)
class AutoWidth:
    """The width with the smallest expected time to an accepted segment.

    A round of width w takes `cost[w]` (any unit) and succeeds with 1 - (1 - p)^w, so the
    expected time is cost[w] / (1 - (1 - p)^w). p is estimated from all attempts judged so far
    with a Beta(prior_accepts, prior_rejects) prior; ties go to the narrower.
    """

    cost: Mapping[int, float]
    prior_accepts: float = 1.0
    prior_rejects: float = 2.0
    n_accepted: int = 0
    n_judged: int = 0
    score_cost: Callable[[int, float], float] | None = field(default=None)

    def next_width(self) -> int:
        """argmin over w of cost[w] / (1 - (1 - p)^w)."""
        p = (self.n_accepted + self.prior_accepts) / (
            self.n_judged + self.prior_accepts + self.prior_rejects
        )
        return min(sorted(self.cost), key=lambda width: self._expected(width, p))

    def _expected(self, width: int, p: float) -> float:
        extra = 0.0 if self.score_cost is None else self.score_cost(width, p)
        return (self.cost[width] + extra) / (1.0 - (1.0 - p) ** width)

    def observe(self, *, accepted: bool) -> None:
        """Count one verdict."""
        self.n_judged += 1
        self.n_accepted += accepted
