"""Attempts and segments as plain values, the same in every JSON that the program writes.

Numbers are finite or None: where a method has no reward, threshold or probability, and where a
threshold is infinite, None stands.
"""

from __future__ import annotations

import math
from typing import Any

from stars_local.core.records import Attempt, Segment


def finite(value: float | None) -> float | None:
    """The number, or None where it is absent, infinite or not a number."""
    return value if value is not None and math.isfinite(value) else None


def plain_attempt(attempt: Attempt) -> dict[str, Any]:
    """An attempt as it was judged."""
    return {
        "segment": attempt.segment,
        "index": attempt.index,
        "text": attempt.text,
        "n_tokens": attempt.n_tokens,
        "outcome": attempt.outcome.value,
        "reward": finite(attempt.reward),
        "threshold": finite(attempt.threshold),
        "probability": finite(attempt.probability),
        "axes": {axis: finite(value) for axis, value in attempt.axes.items()},
        "passed": attempt.passed,
        "end": attempt.end.value,
    }


def plain_segment(segment: Segment) -> dict[str, Any]:
    """A segment as it was kept."""
    return {
        "index": segment.index,
        "text": segment.text,
        "n_tokens": segment.n_tokens,
        "reward": finite(segment.reward),
        "threshold": finite(segment.threshold),
        "probability": finite(segment.probability),
        "n_attempts": segment.n_attempts,
        "outcome": segment.outcome.value,
    }
