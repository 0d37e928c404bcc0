"""How long a reward model takes, where a choice depends on it."""

from __future__ import annotations

import statistics
import time

from stars_local.core.ports import RewardModel
from stars_local.core.records import Prompt

_RUNS = 3
_TEXT = "The fox sleeps until the evening comes, and nobody wakes it before that. " * 4


def scoring_seconds(reward: RewardModel) -> float:
    """Seconds of one call with one text of some 60 tokens: the median, the first call left out."""
    items = [(Prompt("timing", text=_TEXT), _TEXT)]
    reward.score(items)
    found = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        reward.score(items)
        found.append(time.perf_counter() - began)
    return statistics.median(found)
