"""The one stream of typed events that every consumer reads.

Started, then for each segment Drawing and Judged in turns and one Kept, then Finished. Events
carry what happened; consumers (terminal, JSON lines, evaluation records) decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from stars_local.core.records import Attempt, Result, Segment


@dataclass(frozen=True, slots=True)
class Started:
    """A prompt was opened: its tokens, those already cached, and r(x, "") if it was scored."""

    prompt_id: str
    method: str
    n_prompt_tokens: int
    n_reused_tokens: int
    prefill: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Attempts `first` up to `first + n` (half-open) of a segment are about to be drawn."""

    segment: int
    first: int
    n: int
    max_attempts: int


@dataclass(frozen=True, slots=True)
class Judged:
    """An attempt met its fate."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Kept:
    """A segment became part of the response.

    `printable` is the text that is final: a possible beginning of a stop string stays back
    until it is decided, and comes with a later segment or with Finished. `n_backtrack` are the
    characters of earlier segments that a stop string took away (they were never printable).
    """

    segment: Segment
    token_ids: tuple[int, ...]
    n_backtrack: int = 0
    printable: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete. `printable` is final text that no Kept event carried."""

    result: Result
    printable: str = ""


Event = Started | Drawing | Judged | Kept | Finished
