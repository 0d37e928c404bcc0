"""The acceptance rule: with what probability a scored segment is kept.

Equation (STARS, arXiv 2511.03827; CARDS, arXiv 2406.16306):

    P(accept s) = min(1, exp((r(x, y + s) - tau(s)) / beta))

held against a uniform number in the log domain. beta -> 0 is the hard rule r >= tau, as a
limit. A reward whose gates did not pass has probability 0, whatever its value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from stars_local.core.records import Reward


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an attempt is accepted, and the probability it had."""

    accepted: bool
    probability: float


class AcceptanceRule(Protocol):
    """Decides one attempt from its reward, its threshold and a uniform number in [0, 1)."""

    def __call__(self, reward: Reward, threshold: float, uniform: float) -> Verdict:
        """The verdict on one attempt; a pure function of its arguments."""
        ...


def log_probability(reward: float, threshold: float, beta: float) -> float:
    """log min(1, exp((reward - threshold) / beta)), in [-inf, 0].

    `threshold` may be infinite: -inf accepts everything, +inf nothing. `beta` >= 0.
    """
    if math.isinf(threshold):
        return 0.0 if threshold < 0 else -math.inf
    if reward >= threshold:
        return 0.0
    return (reward - threshold) / beta if beta > 0 else -math.inf


@dataclass(frozen=True, slots=True)
class TiltRule:
    """The rule of the papers, with inverse steepness `beta` >= 0 in units of the reward."""

    beta: float

    def __call__(self, reward: Reward, threshold: float, uniform: float) -> Verdict:
        """Accept with probability min(1, exp((r - tau) / beta)), 0 if a gate failed."""
        log_p = log_probability(reward.value, threshold, self.beta) if reward.passed else -math.inf
        if log_p == 0.0:
            return Verdict(True, 1.0)
        # log(0) is minus infinity: a uniform of exactly 0 is below any positive probability
        accepted = log_p > -math.inf and (uniform == 0.0 or math.log(uniform) < log_p)
        return Verdict(accepted, math.exp(log_p))


@dataclass(frozen=True, slots=True)
class CoinRule:
    """Accepts with a fixed probability whatever the reward: imposes a rate, for benchmarks."""

    probability: float

    def __call__(self, reward: Reward, threshold: float, uniform: float) -> Verdict:
        """Accept if the uniform number lies below the imposed probability."""
        return Verdict(uniform < self.probability, self.probability)
