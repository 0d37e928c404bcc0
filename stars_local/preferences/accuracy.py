"""Pair accuracy with its interval: a page of arithmetic, standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class PairAccuracy:
    """The share of pairs whose chosen response scores higher, ties counted half."""

    pairs: int
    accuracy: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, margins: Sequence[float]) -> PairAccuracy:
        """From chosen minus rejected rewards; ValueError for none."""
        if not margins:
            raise ValueError("no pairs to measure the accuracy of")
        wins = sum(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins)
        n = len(margins)
        return cls(n, wins / n, wilson_interval(wins / n, n))

    def to_json(self) -> dict[str, object]:
        """As it stands in cards and reports."""
        return {"pairs": self.pairs, "accuracy": self.accuracy, "ci95": list(self.ci95)}


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (0 to 1) of `n` trials."""
    z2 = _Z95 * _Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At shares of 0 and 1 rounding may put an end beyond the share itself.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
