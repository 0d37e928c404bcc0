"""STARS that scores every draw of its first round: for measuring what a position offers.

The path is that of STARS, drawn to the first accepted attempt or the cap, so that the prefixes
are STARS' own. At each segment the rewards of the first round's `width` draws are written down,
all of them: they are independent draws from the proposal, whatever is kept. The observations
are appended to a list that the caller owns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stars_local.core.acceptance import AcceptanceRule
from stars_local.core.methods.base import Context, Progress, Segmentation
from stars_local.core.methods.stars import StarsParams, draw_segment
from stars_local.core.records import Proposal, Reward
from stars_local.core.requests import Score, Steps
from stars_local.core.thresholds import Threshold
from stars_local.core.widths import FixedWidth


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
    max_attempts: int,
    positions: list[Position],
) -> Steps:
    """STARS, observed: see the module's docstring."""
    # a round is scored whole, so that its rewards are those of all its draws
    progress = Progress(replace(context, score_chunk=0))
    (initial,) = yield Score((progress.text,))
    params = StarsParams(threshold, rule, segmentation, max_attempts)
    widths = FixedWidth(context.width)

    def observe(proposals: tuple[Proposal, ...], rewards: tuple[Reward, ...]) -> None:
        positions.append(
            Position(
                context.seeds.prompt_id,
                progress.n_segments,
                initial.value,
                tuple(reward.value for reward in rewards),
                tuple(progress.n_tokens + proposal.n_tokens for proposal in proposals),
                tuple(progress.ends(proposal) for proposal in proposals),
            )
        )

    while progress.finish is None:
        yield from draw_segment(progress, params, widths, initial.value, observe)
    return progress.finish
