"""Best of n: whole answers are drawn side by side, scored, and the best is kept.

With n = 1 it is plain sampling: attempt i draws its tokens with the seeds that attempt i at
each segment has, so arms share their randomness. Losers count as rejected.
"""

from __future__ import annotations

from stars_local.core.boundaries import Boundary
from stars_local.core.methods.base import Context, WholeAnswer
from stars_local.core.methods.choosing import keep_best
from stars_local.core.records import Finish
from stars_local.core.requests import Steps


def best_of_n(context: Context, n: int, segment_size: int) -> Steps:
    """Draw one answer as the best of `n` >= 1; `segment_size` only places the seeds."""
    progress = WholeAnswer(context, segment_size)
    yield from keep_best(progress, Boundary(progress.n_left), n)
    # an answer that is neither ended nor full was cut short by the budget of decoded tokens
    return Finish.BUDGET if progress.finish is None else progress.finish
