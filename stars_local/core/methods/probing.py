"""STARS that scores every draw: for measuring what rewards a position offers.

At each segment `width` attempts are drawn and all of them scored, so that the rewards are
independent draws from the proposal, whatever is kept: the first accepted of them, or the best
where none is. The observations are appended to a list that the caller owns.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from stars_local.core.acceptance import AcceptanceRule
from stars_local.core.methods.base import Context, Progress, Segmentation
from stars_local.core.records import Outcome
from stars_local.core.requests import Propose, Request, Score, Steps
from stars_local.core.thresholds import Threshold


@dataclass(frozen=True, slots=True)
class Position:
    """Independent draws at one segment of one response.

    rewards, n_tokens, ended: one entry a draw; n_tokens counts the response's tokens at the
    end of the drawn segment. initial: r(x, "").
    """

    prompt_id: str
    segment: int
    initial: float
    rewards: tuple[float, ...]
    n_tokens: tuple[int, ...]
    ended: tuple[bool, ...]


def probing(
    context: Context,
    threshold: Threshold,
    rule: AcceptanceRule,
    segmentation: Segmentation,
    positions: list[Position],
) -> Steps:
    """STARS that scores every draw of one round a segment, and keeps the first accepted of
    them, or the best: the draws are independent of each other, whatever is kept."""
    progress = Progress(context)
    (initial,) = yield Score((progress.text,))
    while progress.finish is None:
        yield from _probe_segment(progress, threshold, rule, segmentation, initial.value, positions)
    return progress.finish


def _probe_segment(
    progress: Progress,
    threshold: Threshold,
    rule: AcceptanceRule,
    segmentation: Segmentation,
    initial: float,
    positions: list[Position],
) -> Generator[Request, Any, None]:
    boundary = segmentation.boundary(progress.n_left)
    n = progress.context.width
    proposals: Any = yield Propose(progress.draws(0, n), boundary)
    rewards: Any = yield Score(tuple(p.extend(progress.text) for p in proposals))
    n_tokens = tuple(progress.n_tokens + p.n_tokens for p in proposals)
    ended = tuple(progress.ends(p) for p in proposals)
    positions.append(
        Position(
            progress.context.seeds.prompt_id,
            progress.n_segments,
            initial,
            tuple(reward.value for reward in rewards),
            n_tokens,
            ended,
        )
    )
    taus = [
        threshold.at(tokens, initial, segment=progress.n_segments, ended=end)
        for tokens, end in zip(n_tokens, ended, strict=True)
    ]
    verdicts = [
        rule(reward, tau, progress.uniform(i))
        for i, (reward, tau) in enumerate(zip(rewards, taus, strict=True))
    ]
    accepted = [i for i, verdict in enumerate(verdicts) if verdict.accepted]
    kept = accepted[0] if accepted else max(range(len(rewards)), key=lambda i: rewards[i].value)
    outcome = Outcome.ACCEPTED if accepted else Outcome.FORCED
    event = progress.judged(
        kept, proposals[kept], outcome, rewards[kept], taus[kept], verdicts[kept]
    )
    yield event
    yield from progress.keep(proposals[kept], event.attempt, kept + 1)
