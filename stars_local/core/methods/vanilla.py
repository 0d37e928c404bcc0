"""Plain sampling, drawn in the same segments and with the same seeds as STARS.

It is what STARS does at tau = -inf: the first attempt at each segment is kept. No reward is
asked for.
"""

from __future__ import annotations

from stars_local.core.events import Drawing
from stars_local.core.methods.base import Context, Progress, Segmentation
from stars_local.core.records import Outcome
from stars_local.core.requests import Propose, Steps


def vanilla(context: Context, segmentation: Segmentation) -> Steps:
    """Draw one answer without looking at rewards."""
    progress = Progress(context)
    while progress.finish is None:
        yield Drawing(progress.n_segments, 0, 1, 1)
        boundary = segmentation.boundary(progress.n_left)
        (proposal,) = yield Propose(progress.draws(0, 1), boundary)
        judged = progress.judged(0, proposal, Outcome.ACCEPTED)
        yield judged
        yield from progress.keep(proposal, judged.attempt, 1)
    return progress.finish
