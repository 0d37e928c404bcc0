"""How many attempts a threshold costs, predicted from rewards drawn at known positions.

At a position whose acceptance probability is Z, attempts are geometric, truncated at the cap
M = max_attempts:

    E[attempts] = (1 - (1 - Z)^M) / Z          P(forced) = (1 - Z)^M

Z differs from position to position, and a few draws each give only a noisy view of it. Since
both formulas are convex in Z, plugging the noisy view in would predict too many attempts.
Rewards are therefore modelled as  r = mu_position + e  with one distribution of e for each
segment index, and the measured means are shrunk towards the mean of their segment index until
their variance is the one that remains after sampling noise is taken out (an empirical-Bayes
location model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stars_local.core.errors import CalibrationError
from stars_local.core.methods.probing import Position
from stars_local.core.thresholds import Threshold

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cost:
    """Predicted mean attempts per segment, and share of segments forced, in [0, 1]."""

    attempts: float
    forced_share: float


class AttemptsLaw:
    """Predicts the cost of thresholds from positions; needs at least 2 draws at each."""

    def __init__(self, positions: Sequence[Position], max_attempts: int) -> None:
        if not positions or any(len(p.rewards) < 2 for p in positions):
            raise CalibrationError(
                f"{len(positions)} positions to calibrate on, each needs 2 draws or more: "
                "give more prompts"
            )
        self._positions = positions
        self._max_attempts = max_attempts
        means = np.array([np.mean(p.rewards) for p in positions])
        residuals = [np.array(p.rewards) - mean for p, mean in zip(positions, means, strict=True)]
        n = np.array([len(p.rewards) for p in positions])
        stretched = [r * np.sqrt(k / (k - 1)) for r, k in zip(residuals, n, strict=True)]
        self._segments = np.array([p.segment for p in positions])
        self._pools = {
            segment: _thin(
                np.concatenate(
                    [r for r, p in zip(stretched, positions, strict=True) if p.segment == segment]
                )
            )
            for segment in np.unique(self._segments)
        }
        self.within = float(np.sqrt(sum((r**2).sum() for r in residuals) / (n - 1).sum()))
        self._means = self._shrunk(means, n)

    def _shrunk(self, means: Floats, n: npt.NDArray[np.int64]) -> Floats:
        """Means by position, shrunk so that their variance is free of sampling noise."""
        shrunk = means.copy()
        for segment, pool in self._pools.items():
            mine = self._segments == segment
            centre, spread = means[mine].mean(), means[mine].var()
            noise = float(pool.var() * np.mean(1.0 / n[mine]))
            keep = np.sqrt(max(0.0, spread - noise) / spread) if spread > 0 else 0.0
            shrunk[mine] = centre + keep * (means[mine] - centre)
        return shrunk

    def acceptance(self, threshold: Threshold, beta: float) -> Floats:
        """Z of each position, shape (n_positions,)."""
        taus = np.array(
            [
                np.mean(
                    [
                        threshold.at(n, p.initial, ended=ended)
                        for n, ended in zip(p.n_tokens, p.ended, strict=True)
                    ]
                )
                for p in self._positions
            ]
        )
        shares = np.empty(len(taus))
        for segment, pool in self._pools.items():
            mine = self._segments == segment
            gap = (self._means[mine] - taus[mine])[:, None] + pool[None, :]
            if beta == 0:
                shares[mine] = (gap >= 0).mean(axis=1)
                continue
            with np.errstate(over="ignore"):  # a tiny beta is the hard rule: exp(-inf) is 0
                shares[mine] = np.exp(np.minimum(gap, 0.0) / beta).mean(axis=1)
        return shares

    def cost(self, threshold: Threshold, beta: float) -> Cost:
        """Mean attempts and forced share over the positions."""
        z = np.clip(self.acceptance(threshold, beta), 1e-12, 1.0 - 1e-16)
        log_forced = self._max_attempts * np.log1p(-z)  # so that a tiny z is not cancelled away
        attempts = -np.expm1(log_forced) / z
        return Cost(float(attempts.mean()), float(np.exp(log_forced).mean()))


def check_attempts(attempts: float, max_attempts: int) -> None:
    """Raise CalibrationError for a wanted mean that no threshold can have."""
    if not 1.0 < attempts < max_attempts:
        raise CalibrationError(
            f"{attempts:g} attempts per segment wanted: the mean lies between 1 and "
            f"max_attempts, which is {max_attempts}"
        )


def solve_threshold(
    law: AttemptsLaw, template: Threshold, beta: float, attempts: float, max_attempts: int
) -> float:
    """The r_star at which the mean of attempts is the wanted one, by bisection.

    `template` gives every other switch of the threshold. Raises CalibrationError where no
    threshold can cost that much or that little.
    """
    check_attempts(attempts, max_attempts)

    def cost_at(r_star: float) -> float:
        return law.cost(_with_r_star(template, r_star), beta).attempts

    low, high = -1.0, 1.0
    while cost_at(low) > attempts:
        low *= 2.0
        if low < -1e9:
            raise CalibrationError("no threshold is low enough for so few attempts: check rewards")
    while cost_at(high) < attempts:
        high *= 2.0
        if high > 1e9:
            raise CalibrationError(
                "no threshold is high enough for so many attempts: check rewards"
            )
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if cost_at(middle) < attempts else (low, middle)
    return (low + high) / 2.0


def next_threshold(
    paid: Sequence[tuple[float, float]],
    wanted: float,
    nearest: float,
    spread: float,
    stretch: float,
) -> float:
    """The r_star to try next, from what was paid on STARS' own prefixes so far.

    paid: (r_star, mean attempts) of the rounds, in order. nearest: the solution on the last
    round's prefixes, too low by as much as better prefixes save: the first step goes `stretch`
    times as far. Later steps follow the secant of log attempts through the last two rounds, at
    most one spread beyond them.
    """
    r_now, cost_now = paid[-1]
    step = stretch * (nearest - r_now)
    if len(paid) > 1:
        r_before, cost_before = paid[-2]
        rise = np.log(cost_now) - np.log(cost_before)
        if rise * (r_now - r_before) > 0:
            step = float((np.log(wanted) - np.log(cost_now)) * (r_now - r_before) / rise)
    return r_now + float(np.clip(step, -spread, spread))


def _with_r_star(template: Threshold, r_star: float) -> Threshold:
    return replace(template, r_star=r_star)


def _thin(residuals: Floats, most: int = 512) -> Floats:
    """At most `most` quantiles of the residuals: as good as all of them, and quick."""
    if len(residuals) <= most:
        return residuals
    return np.quantile(residuals, (np.arange(most) + 0.5) / most)
