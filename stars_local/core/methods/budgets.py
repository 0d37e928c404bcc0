"""Keeping an answer to a budget B of judged tokens per kept token.

With J tokens judged and K kept before a segment that is expected to have L tokens, the answer is
ahead of its budget, in attempts, by

    lead = (B K - J) / L

L being the mean length of the attempts judged so far, at first the segment size, and never more
than what is left. A segment may take at most  max(1, floor(lead + 2 B - 1))  attempts, which
borrows less than one segment's budget; the one that may fill the answer spends what is left,
max(1, floor(lead + B + u))  attempts with u uniform in [0, 1), so that the rounding costs nothing
in the mean. m segments so take at most  max(m, B (m + 1))  attempts where they are equally long.
"""

from __future__ import annotations

import math

from stars_local.core.methods.base import Progress

_ROUNDING = -1  # the index of the number that rounds; attempts count from 0


def lead_of(progress: Progress, budget: float, segment_size: int) -> float:
    """Attempts at the coming segment that the budget of the kept tokens has left over."""
    length = float(segment_size)
    if progress.n_judged:
        length = progress.n_judged_tokens / progress.n_judged
    ahead = budget * progress.n_tokens - progress.n_judged_tokens
    return ahead / min(length, progress.n_left)


def attempts_allowed(budget: float, lead: float) -> int:
    """The most attempts at a segment before the last one."""
    return max(1, math.floor(lead + 2.0 * budget - 1.0))


def attempts_left(progress: Progress, budget: float, lead: float) -> int:
    """The attempts at a segment that may fill the answer."""
    return max(1, math.floor(lead + budget + progress.uniform(_ROUNDING)))
