"""What a context of llama.cpp cannot exceed."""

from __future__ import annotations

from stars_local.core.errors import UsageError

MAX_SEQUENCES = 256


def need_sequences(n: int, cohort: int, width: int, remedy: str) -> None:
    """Raise UsageError where `n` sequences, of so many prompts at this width, are too many."""
    if n > MAX_SEQUENCES:
        raise UsageError(
            f"{cohort} prompts at width {width} need {n} sequences, a context holds "
            f"{MAX_SEQUENCES}: lower {remedy}"
        )
