"""Optimal stopping by segment: draw while one more attempt is worth its tokens.

At a position, rewards are taken as draws from N(mu, s^2). With n rewards seen, their mean m
and a flat prior on mu, the posterior is mu ~ N(m, s^2 / n), so the next reward is predicted as

    r ~ N(m, v^2),   v^2 = s^2 (1 + 1 / n)

and with b the best so far, the expected improvement of one more attempt is

    EI = E[max(r - b, 0)] = v (phi(z) + z Phi(z)),   z = (m - b) / v

phi and Phi being the standard normal density and distribution function (integrate r - b over
the density right of b). The drawing stops when

    EI < price * (tokens of an attempt, as a mean of those seen)

the price being in units of the reward per decoded token: at 0.005 spreads and 32 tokens a
Gaussian position gets about 4 attempts. s^2 pools the calibrated spread s_0, weighing like
w = `_PRIOR_WEIGHT` rewards, with the squares about their means at all positions of this answer:

    s^2 = (w s_0^2 + sum of squares) / (w + degrees of freedom)

A position with luck early stops early, one with a bad start goes on: the same tokens buy more
than with a fixed k. Attempts are looked at in their order, so the width changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from stars_local.core.methods.base import Context, Progress, Segmentation
from stars_local.core.methods.choosing import Candidate, keep_best
from stars_local.core.requests import Steps

_PRIOR_WEIGHT = 8.0
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class StoppingParams:
    """price: reward per decoded token, >= 0. spread: the calibrated standard deviation of
    rewards at one position, in units of the reward, > 0. `max_attempts` >= 1."""

    price: float
    spread: float
    segmentation: Segmentation = Segmentation()
    max_attempts: int = 20


@dataclass(slots=True)
class SpreadEstimate:
    """The spread at a position, from the calibrated one and the squares seen at others."""

    calibrated: float
    squares: float = 0.0
    freedom: int = 0

    def value(self, rewards: Sequence[float]) -> float:
        """The estimate, the rewards of the position at work included."""
        squares = self.squares + _squares(rewards)
        freedom = self.freedom + len(rewards) - 1
        return math.sqrt((_PRIOR_WEIGHT * self.calibrated**2 + squares) / (_PRIOR_WEIGHT + freedom))

    def learn(self, rewards: Sequence[float]) -> None:
        """Remember a position that is done."""
        self.squares += _squares(rewards)
        self.freedom += len(rewards) - 1


def expected_improvement(rewards: Sequence[float], spread: float) -> float:
    """E[max(r - best, 0)] for one more reward at the position, in units of the reward.

    rewards: those seen, at least one. spread: their standard deviation, > 0.
    """
    n = len(rewards)
    v = spread * math.sqrt(1.0 + 1.0 / n)
    z = (sum(rewards) / n - max(rewards)) / v
    return v * (_NORMAL.pdf(z) + z * _NORMAL.cdf(z))


def stopping(context: Context, params: StoppingParams) -> Steps:
    """Draw one answer, paying `price` for tokens."""
    progress = Progress(context)
    estimate = SpreadEstimate(params.spread)

    rewards: list[float] = []

    def enough(seen: Sequence[Candidate]) -> bool:
        rewards[:] = [candidate.reward.value for candidate in seen]
        n_tokens = sum(candidate.proposal.n_tokens for candidate in seen) / len(seen)
        gain = expected_improvement(rewards, estimate.value(rewards))
        return gain < params.price * n_tokens

    while progress.finish is None:
        boundary = params.segmentation.boundary(progress.n_left)
        yield from keep_best(progress, boundary, params.max_attempts, enough)
        if rewards:
            estimate.learn(rewards)
        rewards.clear()
    return progress.finish


def _squares(rewards: Sequence[float]) -> float:
    mean = sum(rewards) / len(rewards)
    return sum((reward - mean) ** 2 for reward in rewards)
