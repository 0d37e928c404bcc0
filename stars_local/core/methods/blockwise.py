"""Blockwise best of k: at each segment k attempts are drawn and the best is kept.

k may differ by position, its mean over the positions staying the same (the idea of Adaptive
Blockwise Search, arXiv 2510.23334: where along the answer should attempts be spent?). With
m = ceil(max_new_tokens / segment_size) positions and i = 0 .. m - 1:

    uniform   k
    decay     1 + 2 (k - 1) (m - 1 - i) / (m - 1), from 2k - 1 down to 1
    grow      1 + 2 (k - 1) i / (m - 1), from 1 up to 2k - 1

rounded half up; k where m = 1. The paper decays exponentially, this decays linearly.
"""

from __future__ import annotations

import math
from enum import StrEnum

from stars_local.core.methods.base import Context, Progress, Segmentation
from stars_local.core.methods.choosing import keep_best
from stars_local.core.requests import Steps


class KSchedule(StrEnum):
    """How the number of attempts depends on the position."""

    UNIFORM = "uniform"
    DECAY = "decay"
    GROW = "grow"


def attempts_at(segment: int, n_segments: int, k: int, schedule: KSchedule) -> int:
    """Attempts at a segment of an answer that has up to `n_segments`; `k` >= 1 is their mean."""
    if schedule is KSchedule.UNIFORM or n_segments <= 1:
        return k
    share = min(1.0, segment / (n_segments - 1))
    if schedule is KSchedule.DECAY:
        share = 1.0 - share
    return math.floor(1.0 + 2.0 * (k - 1) * share + 0.5)


def blockwise(context: Context, k: int, schedule: KSchedule, segmentation: Segmentation) -> Steps:
    """Draw one answer, keeping the best attempt at each segment."""
    progress = Progress(context)
    n_segments = math.ceil(context.max_new_tokens / segmentation.segment_size)
    while progress.finish is None:
        boundary = segmentation.boundary(progress.n_left)
        n = attempts_at(progress.n_segments, n_segments, k, schedule)
        yield from keep_best(progress, boundary, n)
    return progress.finish
