"""Threshold schedules: what reward a segment must reach, by its place in the response.

With n the tokens of the response at the end of the segment, N = max_new_tokens and

    tau_0 = (1 - alpha) * r(x, "") + alpha * r_star                      (CARDS, eq. for tau)

    ramp      min(r_star, tau_0 + (r_star - tau_0) * min(1, n / N))      (STARS, the default)
    fixed     r_star
    decay     r_star - (r_star - tau_0) * min(1, n / N), from r_star down to tau_0
    quantile  quantiles[ceil(n / quantile_size) - 1], the calibrated reward at that length, the last
              one beyond; r_star where none is known

`relative` measures r_star (and the quantiles) from r(x, ""): they are offsets, in units of the
reward, to which the prompt's own starting point is added. r(x, "") is known before anything is
drawn, so a segment still follows the law of STARS exactly; an origin taken from the rewards of
the first segment would tie the threshold to the attempts that are held against it.
`ended_at_r_star` judges an answer that ends early at r_star, where the plain schedules would
meet it with the lenient threshold of its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class ThresholdFrom(StrEnum):
    """Where r_star is measured from: zero, or r(x, "")."""

    ZERO = "zero"
    PROMPT = "prompt"


class Schedule(StrEnum):
    """The names of the schedules."""

    RAMP = "ramp"
    FIXED = "fixed"
    DECAY = "decay"
    QUANTILE = "quantile"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A schedule with its numbers; a pure function of the place in the response.

    r_star (`reward_threshold`) is in units of the reward and may be infinite; alpha in [0, 1];
    max_new_tokens > 0. `quantiles` holds the calibrated reward after each further `quantile_size`
    >= 1 tokens: the segment size of the calibration, whatever the segments are now.
    """

    r_star: float
    alpha: float
    max_new_tokens: int
    schedule: Schedule = Schedule.RAMP
    ended_at_r_star: bool = False
    relative: bool = False
    quantiles: Sequence[float] = ()
    quantile_size: int = 32

    def at(
        self, n_tokens: int, initial: float, *, n_end: int | None = None, ended: bool = False
    ) -> float:
        """The threshold of a segment after which the response has `n_tokens` tokens.

        initial: r(x, ""). n_end: the tokens at its end where `n_tokens` counts to another place;
        `quantile` goes by them alone. ended: the text ends inside it.
        """
        r_star = self.r_star + initial if self.relative else self.r_star
        if r_star in (float("inf"), float("-inf")):
            return r_star
        if self.schedule is Schedule.FIXED or (ended and self.ended_at_r_star):
            return r_star
        if self.schedule is Schedule.QUANTILE:
            tau = self._quantile(n_tokens if n_end is None else n_end)
            return tau + initial if self.relative else tau
        tau_0 = (1.0 - self.alpha) * initial + self.alpha * r_star
        share = min(1.0, n_tokens / self.max_new_tokens)
        if self.schedule is Schedule.DECAY:
            return r_star - (r_star - tau_0) * share
        return min(r_star, tau_0 + (r_star - tau_0) * share)

    def _quantile(self, n_tokens: int) -> float:
        if not self.quantiles:
            return self.r_star
        place = max(0, -(-n_tokens // self.quantile_size) - 1)
        return self.quantiles[min(place, len(self.quantiles) - 1)]
