"""How much of what a quantised file lost decoding gives back.

    recovery = (stars@q - vanilla@q) / (vanilla@reference - vanilla@q)

over the same prompts and seeds, by means. A ratio means something only where its denominator
is a loss beyond doubt: it is given where the paired 95 % bootstrap interval of the denominator
lies above zero; otherwise only the plain differences are. Resamples without a loss have no ratio:
where they reach into the interval, its upper end is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from stars_local.core.errors import DataError
from stars_local.evals.metrics import Estimate, bootstrap, mean

_NO_RATIO = float(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True)
class Recovery:
    """lost: vanilla@reference - vanilla@q. gained: stars@q - vanilla@q. left: stars@q -
    vanilla@reference. share: gained / lost, None where nothing certain was lost. unbounded:
    whether the interval of the share has no end on a side (`share.high`, or for a loss that grew
    `share.low`, is infinite)."""

    lost: Estimate
    gained: Estimate
    left: Estimate
    share: Estimate | None
    unbounded: bool


def recovery(
    reference: Mapping[str, float], vanilla: Mapping[str, float], stars: Mapping[str, float]
) -> Recovery:
    """From values by prompt id, of the same prompts. Raises DataError where they have none in
    common."""
    shared = sorted(set(reference) & set(vanilla) & set(stars))
    if not shared:
        raise DataError("the arms share no prompt: run them on the same prompts")
    rows = [(reference[key], vanilla[key], stars[key]) for key in shared]
    lost = mean([r - v for r, v, _ in rows])
    share = _bounded(bootstrap(rows, _share)) if lost.low > 0 else None
    return Recovery(
        lost,
        mean([s - v for _, v, s in rows]),
        mean([s - r for r, _, s in rows]),
        share,
        share is not None and (math.isinf(share.high) or math.isinf(share.low)),
    )


def _share(rows: np.ndarray) -> float:
    reference, vanilla, stars = rows.mean(axis=0)
    lost, gained = reference - vanilla, stars - vanilla
    # no ratio: a number, because quantiles between infinities would be NaN
    return float(gained / lost) if lost > 0 else math.copysign(_NO_RATIO, gained)


def _bounded(share: Estimate) -> Estimate:
    """The interval with an infinite end where resamples without a ratio reach into it; the
    quantile may lie anywhere between such a one and its neighbour."""
    low = -math.inf if share.low < -_NO_RATIO / 1e9 else share.low
    return replace(share, low=low, high=math.inf if share.high > _NO_RATIO / 1e9 else share.high)
