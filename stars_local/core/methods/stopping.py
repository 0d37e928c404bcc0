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
Gaussian position gets about 4 attempts. s is c g, the calibrated spread c of rewards after so
many tokens (it falls to a fifth along an answer) times how much more this answer's rewards
spread. g^2 pools a 1 that weighs like w = `_PRIOR_WEIGHT` rewards with the squares about their
means at all positions of this answer, each in units of its own c:

    g^2 = (w + sum of squares / c^2) / (w + degrees of freedom)

With a budget B of judged tokens per kept token in place of a price, the price of an attempt is
chosen anew before each segment, as the one at which a Gaussian position of known mean takes
T = B + lead / 2 attempts, the lead being what the answer has left over (see `budgets`). Half of it,
since a price that gave back at once what the last position spared would buy less for the same
tokens than one that hardly moves:

    price = s (phi(q) - q / T),   q = Phi^-1(1 - 1 / T)

That rule accepts above mu + s q, so a share 1 / T of the attempts, and stops where E[max(r - b,
0)] at b = mu + s q is the price. A T under 1.01 takes one attempt. The segment that may fill the
answer is the best of what is left.

The rule looks one attempt ahead. With a known distribution that is optimal: the best so far only
rises, so once one more attempt is not worth its price none after it is. Not knowing the mean
costs, on a nearly Gaussian table with at most 8 attempts, 0.05 of a spread at a price of 0.02
spreads an attempt, 0.13 at 0.1 and 0.24 at 0.4; every fixed number of attempts earns less.

Only attempts that passed the gates count among the rewards: the others cannot be kept while one
passes, and until one does the drawing goes on to the limit of attempts. Then one more attempt
gains EI only if it passes, so EI is weighed by the share p of this position's attempts that did,
and T attempts of a budget are T p that pass.

A position with luck early stops early, one with a bad start goes on: the same tokens buy more
than with a fixed k. Attempts are looked at in their order, so the width changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from stars_local.core.methods.base import Context, Progress, Segmentation
from stars_local.core.methods.budgets import attempts_allowed, attempts_left, lead_of
from stars_local.core.methods.choosing import Candidate, Enough, keep_best, never
from stars_local.core.requests import Steps

_PRIOR_WEIGHT = 8.0
_LEAD_SHARE = 0.5
_LEAST_ATTEMPTS = 1.01
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class StoppingParams:
    """price: reward per decoded token, >= 0. budget: judged tokens per kept token, >= 1, in
    place of a price. spread: the calibrated standard deviation of rewards at one position, in
    units of the reward, > 0. spreads: the same after each further `spreads_size` tokens, the last
    for all that follow; empty is `spread` everywhere. `max_attempts` >= 1."""

    price: float
    spread: float
    segmentation: Segmentation = Segmentation()
    max_attempts: int = 20
    budget: float | None = None
    spreads: tuple[float, ...] = ()
    spreads_size: int = 32

    def spread_after(self, n_tokens: int) -> float:
        """The calibrated spread at the position that so many tokens lead to."""
        if not self.spreads:
            return self.spread
        return self.spreads[min(n_tokens // self.spreads_size, len(self.spreads) - 1)]


@dataclass(slots=True)
class SpreadEstimate:
    """The spread at a position, from the calibrated one there and how far it was off elsewhere.

    calibrated: of the position at work; squares: of done ones, in units of theirs.
    """

    calibrated: float
    squares: float = 0.0
    freedom: int = 0

    def value(self, rewards: Sequence[float]) -> float:
        """The estimate, the rewards of the position at work included."""
        squares = self.squares + self._squares(rewards)
        freedom = self.freedom + len(rewards) - 1
        return self.calibrated * math.sqrt((_PRIOR_WEIGHT + squares) / (_PRIOR_WEIGHT + freedom))

    def learn(self, rewards: Sequence[float], coming: float) -> None:
        """Remember a position that is done; coming: the calibrated spread of the next."""
        if rewards:
            self.squares += self._squares(rewards)
            self.freedom += len(rewards) - 1
        self.calibrated = coming

    def _squares(self, rewards: Sequence[float]) -> float:
        mean = sum(rewards) / len(rewards)
        return sum((reward - mean) ** 2 for reward in rewards) / self.calibrated**2


def expected_improvement(rewards: Sequence[float], spread: float) -> float:
    """E[max(r - best, 0)] for one more reward at the position, in units of the reward.

    rewards: those seen, at least one. spread: their standard deviation, > 0.
    """
    n = len(rewards)
    v = spread * math.sqrt(1.0 + 1.0 / n)
    z = (sum(rewards) / n - max(rewards)) / v
    return v * (_NORMAL.pdf(z) + z * _NORMAL.cdf(z))


def price_of_attempts(attempts: float, spread: float) -> float:
    """The price of an attempt at which a Gaussian position takes so many in the mean.

    Infinite where `attempts` is under 1.01. spread: its standard deviation, > 0.
    """
    if attempts < _LEAST_ATTEMPTS:
        return math.inf
    q = _NORMAL.inv_cdf(1.0 - 1.0 / attempts)
    return spread * (_NORMAL.pdf(q) - q / attempts)


def stopping(context: Context, params: StoppingParams) -> Steps:
    """Draw one answer, paying `price` for tokens, or as much as keeps to the budget."""
    progress = Progress(context)
    estimate = SpreadEstimate(params.spread_after(0))
    budget, size = params.budget, params.segmentation.segment_size
    wanted = math.inf
    rewards: list[float] = []

    def enough(seen: Sequence[Candidate]) -> bool:
        rewards[:] = [each.reward.value for each in seen if each.reward.passed]
        if not rewards:
            return False
        spread = estimate.value(rewards)
        gain = expected_improvement(rewards, spread)
        passing = len(rewards) / len(seen)
        if budget is not None:
            return gain < price_of_attempts(passing * wanted, spread)
        n_tokens = sum(candidate.proposal.n_tokens for candidate in seen) / len(seen)
        return passing * gain < params.price * n_tokens

    while progress.finish is None:
        boundary = params.segmentation.boundary(progress.n_left)
        cap = params.max_attempts
        rule: Enough = enough
        if budget is not None:
            lead = lead_of(progress, budget, size)
            wanted = budget + _LEAD_SHARE * lead
            if progress.n_left <= size:
                cap, rule = min(cap, attempts_left(progress, budget, lead)), never
            else:
                cap = min(cap, attempts_allowed(budget, lead))
        yield from keep_best(progress, boundary, cap, rule)
        estimate.learn(rewards, params.spread_after(progress.n_tokens))
        rewards.clear()
    return progress.finish
