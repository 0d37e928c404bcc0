"""What calibration runs show: mean attempts with intervals, and rewards by segment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from stars_local.calibration.records import Measured
from stars_local.core.errors import CalibrationError
from stars_local.core.methods.probing import Position
from stars_local.core.records import Outcome, Result


def measured(results: Sequence[Result], seed: int) -> Measured:
    """Mean attempts a segment with a bootstrap interval over prompts, and the forced share."""
    attempts = [np.array([s.n_attempts for s in result.segments], float) for result in results]
    attempts = [a for a in attempts if len(a)]
    if not attempts:
        raise CalibrationError("no segment was drawn: nothing can be measured")
    n_segments = sum(len(a) for a in attempts)
    forced = sum(s.outcome is Outcome.FORCED for r in results for s in r.segments)
    sums = np.array([a.sum() for a in attempts])
    counts = np.array([len(a) for a in attempts])
    picks = np.random.default_rng(seed).integers(0, len(sums), (2000, len(sums)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Measured(
        float(sums.sum() / n_segments),
        (float(low), float(high)),
        forced / n_segments,
        len(results),
        n_segments,
    )


def final_reward(result: Result) -> float:
    reward = result.segments[-1].reward if result.segments else result.initial_reward
    return math.nan if reward is None else reward


def _segments_of(positions: Sequence[Position]) -> Iterator[tuple[int, list[Position]]]:
    for segment in sorted({p.segment for p in positions}):
        yield segment, [p for p in positions if p.segment == segment]


def quantiles_by_segment(positions: Sequence[Position], level: float) -> tuple[float, ...]:
    """The reward that a share of 1 - level of plain draws reaches, by segment index."""
    return tuple(
        float(np.quantile([r for p in group for r in p.rewards], level))
        for _, group in _segments_of(positions)
    )


def variance_by_segment(positions: Sequence[Position]) -> tuple[dict[str, float], ...]:
    """Mean reward, and how its variance splits between prompts and within one."""
    rows = []
    for segment, group in _segments_of(positions):
        means = np.array([np.mean(p.rewards) for p in group])
        within = float(np.mean([np.var(p.rewards, ddof=1) for p in group]))
        noise = float(np.mean([np.var(p.rewards, ddof=1) / len(p.rewards) for p in group]))
        rows.append(
            {
                "segment": float(segment),
                "n_positions": float(len(group)),
                "mean": float(means.mean()),
                "between_variance": max(0.0, float(means.var()) - noise),
                "within_variance": within,
            }
        )
    return tuple(rows)
