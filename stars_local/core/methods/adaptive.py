"""STARS on a budget: the threshold follows the acceptances so that the mean cost is `budget`.

The threshold of the schedule is moved by a shift that starts at 0, is held while a segment is
drawn (so that a segment follows the law of STARS at its threshold), and then learns:

    shift += 2 spread (a - n / budget)

n being the attempts judged at the segment and a = 1 if one was accepted, else 0. This is the
Robbins-Monro recursion for the reward level that a share 1 / budget of the attempts reaches:
it rests where segments take `budget` attempts in the mean. A prompt that cannot reach r_star
stops spending on it after a segment, one that is past it raises its aim.

It never stalls. With A attempts judged so far, segment k (from 0) may take at most

    min(max_attempts, max(1, floor(budget * (k + 2)) - A))

so that an answer of m segments takes at most  max(m, budget * (m + 1))  attempts. Segments being
equally long, attempts per segment are decoded tokens per kept token. Only judged attempts count,
so that the width changes nothing; those drawn in parallel after a winner come on top.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from stars_local.core.methods.base import Context, Progress
from stars_local.core.methods.stars import StarsParams, draw_segment
from stars_local.core.requests import Score, Steps
from stars_local.core.thresholds import Threshold
from stars_local.core.widths import FixedWidth, WidthPolicy

# In spreads. Rewards drift along an answer and the shift trails them: on a drifting table the
# cost came to 0.7 of a budget of 3 at a step of half a spread, to 0.8 at one, to 0.9 at two.
_STEP = 2.0


@dataclass(frozen=True, slots=True)
class ShiftedThreshold(Threshold):
    """A schedule moved as a whole by `shift`, in units of the reward."""

    shift: float = 0.0

    def at(self, n_tokens: int, initial: float, *, segment: int = 0, ended: bool = False) -> float:
        """The threshold of the schedule, moved."""
        return self.shift + Threshold.at(self, n_tokens, initial, segment=segment, ended=ended)


@dataclass(slots=True)
class _Counted:
    """A width policy that also counts the verdicts."""

    policy: WidthPolicy
    n_judged: int = 0
    n_accepted: int = 0

    def next_width(self) -> int:
        """The policy's."""
        return self.policy.next_width()

    def observe(self, *, accepted: bool) -> None:
        """Count, and pass on."""
        self.n_judged += 1
        self.n_accepted += accepted
        self.policy.observe(accepted=accepted)


def adaptive(context: Context, params: StarsParams, budget: float, spread: float) -> Steps:
    """Draw one answer by STARS with a threshold that keeps to the budget.

    budget: attempts judged per segment, >= 1. spread: standard deviation of the rewards at one
    position, > 0.
    """
    progress = Progress(context)
    (initial,) = yield Score((progress.text,))
    widths = FixedWidth(context.width) if params.widths is None else params.widths
    counted = _Counted(widths)
    while progress.finish is None:
        shift = _STEP * spread * (counted.n_accepted - counted.n_judged / budget)
        cap = attempts_allowed(budget, progress.n_segments, counted.n_judged)
        moved = replace(
            params,
            threshold=_shifted(params.threshold, shift),
            max_attempts=min(params.max_attempts, cap),
        )
        yield from draw_segment(progress, moved, counted, initial.value)
    return progress.finish


def attempts_allowed(budget: float, segment: int, n_judged: int) -> int:
    """The most attempts that segment may take when `n_judged` were judged before it."""
    return max(1, int(budget * (segment + 2)) - n_judged)


def _shifted(threshold: Threshold, shift: float) -> ShiftedThreshold:
    values = {field.name: getattr(threshold, field.name) for field in fields(threshold)}
    return ShiftedThreshold(**values, shift=shift)
