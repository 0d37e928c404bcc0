"""How many attempts are drawn in one batch.

A policy looks at the past only: the width of a round never depends on what the round draws, so
every policy leaves the law of the accepted segment as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

PRIOR_ACCEPTS, PRIOR_REJECTS = 1.0, 2.0
HALF_LIFE = 128  # attempts
_KEPT = 0.5 ** (1 / HALF_LIFE)


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
class Acceptances:
    """Verdicts seen so far, counted so that one of `HALF_LIFE` attempts ago counts half: how
    often attempts are accepted changes with the settings and with what is talked about.

    One counter may serve many answers: a second one need not learn anew what the first has met.
    """

    n_accepted: float = 0.0
    n_judged: float = 0.0

    def add(self, *, accepted: bool) -> None:
        """Count one verdict."""
        self.n_judged = self.n_judged * _KEPT + 1.0
        self.n_accepted = self.n_accepted * _KEPT + accepted

    def rate(self) -> float:
        """Mean of p under a Beta(`PRIOR_ACCEPTS`, `PRIOR_REJECTS`) prior, which stands for the
        three attempts that calibrations aim at."""
        return (self.n_accepted + PRIOR_ACCEPTS) / (self.n_judged + PRIOR_ACCEPTS + PRIOR_REJECTS)


@dataclass(slots=True)
class AutoWidth:
    """The width with the smallest expected time to an accepted segment.

    A round of width w takes `cost[w]` (any unit) and succeeds with 1 - (1 - p)^w, so the
    expected time is cost[w] / (1 - (1 - p)^w), p from the verdicts `seen`; ties go to the
    narrower. Where texts are scored one by one until one is accepted, scoring takes 1/p texts a
    segment at any width and has no say; where a round is scored at once, it belongs to `cost`.
    """

    cost: Mapping[int, float]
    seen: Acceptances = field(default_factory=Acceptances)

    def next_width(self) -> int:
        """argmin over w of cost[w] / (1 - (1 - p)^w)."""
        p = self.seen.rate()
        return min(sorted(self.cost), key=lambda w: self.cost[w] / (1.0 - (1.0 - p) ** w))

    def observe(self, *, accepted: bool) -> None:
        """Count one verdict."""
        self.seen.add(accepted=accepted)
