"""Item-level rejection sampling: whole answers under the acceptance rule of STARS.

It is STARS with a single segment, reseeded where segments would begin; the threshold is the one
at the answer's end. A limit that ends the drawing keeps the best answer so far, as forced.
"""

from __future__ import annotations

from dataclasses import replace

from stars_local.core.methods.base import Context, Segmentation, WholeAnswer
from stars_local.core.methods.stars import StarsParams, draw_segment
from stars_local.core.records import Finish
from stars_local.core.requests import Score, Steps
from stars_local.core.widths import FixedWidth


def rejection(context: Context, params: StarsParams) -> Steps:
    """Draw whole answers until one is accepted, at most `max_attempts`."""
    progress = WholeAnswer(context, params.segmentation.segment_size)
    whole = replace(params, segmentation=Segmentation(context.max_new_tokens), keep_at_halt=True)
    (initial,) = yield Score((progress.text,))
    widths = FixedWidth(context.width) if params.widths is None else params.widths
    yield from draw_segment(progress, whole, widths, initial.value)
    # an answer that is neither ended nor full was cut short by the budget of decoded tokens
    return Finish.BUDGET if progress.finish is None else progress.finish
