"""STARS on a budget B: the threshold follows the acceptances so that the mean cost is B.

The cost is judged tokens per kept token. Before each segment the answer is ahead of its budget by
`lead` attempts (see `budgets`), and the segment's threshold is that of the schedule, moved as a
whole by

    shift = 2 spread lead / B

It is held while the segment is drawn, so that a segment follows the law of STARS at its
threshold, under the cap  min(max_attempts, max(1, floor(lead + 2 B - 1))). The shift is an
integral controller: it rests where segments cost B in the mean. A prompt that cannot reach r_star
stops spending on it after a segment, one that is past it raises its aim.

A lead that is left at the end would be budget that bought nothing. The segment that may fill the
answer (segment_size >= tokens left) therefore spends it: it is the best of the attempts left,
floor(lead + B + u), u being uniform in [0, 1). An answer of full length so costs B whatever its
rewards, unless `max_attempts` or the least of one attempt a segment stand in the way; one that
ends before is off by its last lead.

It never stalls: each segment is capped, and with them the answer. Only judged attempts count, so
that the width changes nothing; those drawn in parallel after a winner come on top. Nothing but
the past of the answer is used.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from stars_local.core.methods.base import Context, Progress
from stars_local.core.methods.budgets import attempts_allowed, attempts_left, lead_of
from stars_local.core.methods.choosing import keep_best
from stars_local.core.methods.stars import StarsParams, draw_segment
from stars_local.core.requests import Score, Steps
from stars_local.core.thresholds import Threshold
from stars_local.core.widths import FixedWidth

# In spreads. Rewards drift along an answer and the shift trails them: on a drifting table the
# cost before the last segment came to 0.7 of a budget of 3 at a step of half a spread, to 0.8
# at one, to 0.9 at two.
_STEP = 2.0


@dataclass(frozen=True, slots=True)
class ShiftedThreshold(Threshold):
    """A schedule moved as a whole by `shift`, in units of the reward."""

    shift: float = 0.0

    def at(
        self, n_tokens: int, initial: float, *, n_end: int | None = None, ended: bool = False
    ) -> float:
        """The threshold of the schedule, moved."""
        return self.shift + Threshold.at(self, n_tokens, initial, n_end=n_end, ended=ended)


def adaptive(context: Context, params: StarsParams, budget: float, spread: float) -> Steps:
    """Draw one answer by STARS with a threshold that keeps to the budget.

    budget: judged tokens per kept token, >= 1. spread: standard deviation of the rewards at one
    position, > 0.
    """
    progress = Progress(context)
    (initial,) = yield Score((progress.text,))
    widths = FixedWidth(context.width) if params.widths is None else params.widths
    size = params.segmentation.segment_size
    while progress.finish is None:
        lead = lead_of(progress, budget, size)
        if progress.n_left <= size:
            n = min(params.max_attempts, attempts_left(progress, budget, lead))
            boundary = params.segmentation.boundary(progress.n_left)
            yield from keep_best(progress, boundary, n)
            continue
        cap = attempts_allowed(budget, lead)
        moved = replace(
            params,
            threshold=_shifted(params.threshold, _STEP * spread * lead / budget),
            max_attempts=min(params.max_attempts, cap),
        )
        yield from draw_segment(progress, moved, widths, initial.value)
    return progress.finish


def _shifted(threshold: Threshold, shift: float) -> ShiftedThreshold:
    values = {field.name: getattr(threshold, field.name) for field in fields(threshold)}
    return ShiftedThreshold(**values, shift=shift)
