"""STARS that scores every draw of its first round: for measuring what a position offers.

The path is that of STARS, drawn to the first accepted attempt or the cap, so that the prefixes
are STARS' own. At each segment the rewards of the first round's `width` draws are written down,
all of them: they are independent draws from the proposal, whatever is kept. The observations
are appended to a list that the caller owns.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from stars_local.core.acceptance import AcceptanceRule
from stars_local.core.boundaries import Boundary
from stars_local.core.events import Judged
from stars_local.core.methods.base import Context, Progress, Segmentation
from stars_local.core.records import Outcome, Proposal, Reward
from stars_local.core.requests import Propose, Reject, Request, Score, Steps
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
    max_attempts: int,
    positions: list[Position],
) -> Steps:
    """STARS, observed: see the module's docstring."""
    progress = Progress(context)
    (initial,) = yield Score((progress.text,))
    probe = _Probe(progress, threshold, rule, initial.value, max_attempts, positions)
    while progress.finish is None:
        yield from probe.segment(segmentation.boundary(progress.n_left))
    return progress.finish


@dataclass(frozen=True, slots=True)
class _Probe:
    """What stays the same along one answer."""

    progress: Progress
    threshold: Threshold
    rule: AcceptanceRule
    initial: float
    max_attempts: int
    positions: list[Position]

    def segment(self, boundary: Boundary) -> Generator[Request, Any, None]:
        """Draw rounds until one has an accepted attempt; the first one is the observation."""
        progress = self.progress
        best: tuple[Proposal, Judged] | None = None
        n_done = 0
        while n_done < self.max_attempts:
            n = min(progress.context.width, self.max_attempts - n_done)
            proposals: tuple[Proposal, ...] = yield Propose(progress.draws(n_done, n), boundary)
            texts = tuple(proposal.extend(progress.text) for proposal in proposals)
            rewards: tuple[Reward, ...] = yield Score(texts)
            if n_done == 0:
                self._observe(proposals, rewards)
            for index, (proposal, reward) in enumerate(
                zip(proposals, rewards, strict=True), n_done
            ):
                event, accepted = self._judge(index, proposal, reward)
                if accepted:
                    yield event
                    yield from progress.keep(proposal, event.attempt, index + 1)
                    return
                best = yield from self._better(best, proposal, event)
            n_done += len(proposals)
        if best is None:
            raise ValueError(f"max_attempts is {self.max_attempts}: give at least 1")
        forced = replace(best[1].attempt, outcome=Outcome.FORCED)
        yield Judged(forced)
        yield from progress.keep(best[0], forced, n_done)

    def _observe(self, proposals: tuple[Proposal, ...], rewards: tuple[Reward, ...]) -> None:
        progress = self.progress
        self.positions.append(
            Position(
                progress.context.seeds.prompt_id,
                progress.n_segments,
                self.initial,
                tuple(reward.value for reward in rewards),
                tuple(progress.n_tokens + proposal.n_tokens for proposal in proposals),
                tuple(progress.ends(proposal) for proposal in proposals),
            )
        )

    def _judge(self, index: int, proposal: Proposal, reward: Reward) -> tuple[Judged, bool]:
        progress = self.progress
        tau = self.threshold.at(
            progress.n_tokens + proposal.n_tokens,
            self.initial,
            segment=progress.n_segments,
            ended=progress.ends(proposal),
        )
        verdict = self.rule(reward, tau, progress.uniform(index))
        outcome = Outcome.ACCEPTED if verdict.accepted else Outcome.REJECTED
        return progress.judged(index, proposal, outcome, reward, tau, verdict), verdict.accepted

    def _better(
        self, best: tuple[Proposal, Judged] | None, proposal: Proposal, event: Judged
    ) -> Generator[Request, Any, tuple[Proposal, Judged]]:
        """The better of two rejected attempts; the other's branch is dropped."""
        if best is None:
            return proposal, event
        old, new = best[1].attempt.reward, event.attempt.reward
        wins = old is None or (new is not None and new > old)
        yield Reject((best[0] if wins else proposal,))
        return (proposal, event) if wins else best
