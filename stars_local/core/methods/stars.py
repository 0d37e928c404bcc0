"""STARS: rejection sampling of segments (arXiv 2511.03827), and its synchronous variant.

    k = 0, y = empty
    until y ends:
        for attempt i = 1 .. max_attempts:
            s_i ~ pi(. | x, y)
            accept with probability min(1, exp((r(x, y + s_i) - tau(s_i)) / beta))
        if none was accepted: force one, and record that it was forced
        y = y + s, k = k + 1

Before the cap an accepted segment follows pi(s) min(1, exp((r(s) - tau(s)) / beta)) / Z.
Attempts are drawn `width` at a time, rounds cut at the cap. The winner is the first accepted
in attempt order: choosing it by reward, length or finishing time would change that law. Later
attempts of its round are spare. CARDS is the same with the entropy boundary.

An attempt is reported as rejected when it fails; the one that is forced in the end is then
reported a second time, as forced.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stars_local.core.acceptance import AcceptanceRule, Verdict
from stars_local.core.events import Drawing, Judged
from stars_local.core.methods.base import Context, Progress, Segmentation
from stars_local.core.records import Outcome, Proposal, Reward
from stars_local.core.requests import Halt, Propose, Reject, Request, Score, Steps
from stars_local.core.thresholds import Threshold
from stars_local.core.widths import FixedWidth, WidthPolicy

Observe = Callable[[tuple[Proposal, ...], tuple[Reward, ...]], None]


class Force(StrEnum):
    """Which attempt is taken when none was accepted."""

    BEST = "best"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class StarsParams:
    """The switches of STARS. `max_attempts` >= 1. keep_at_halt: an answer that must end keeps
    the best attempt at its unfinished segment, which otherwise is dropped. tau_at_start: the
    threshold is taken where the segment begins, not where it ends."""

    threshold: Threshold
    rule: AcceptanceRule
    segmentation: Segmentation = Segmentation()
    max_attempts: int = 20
    force: Force = Force.BEST
    widths: WidthPolicy | None = None
    keep_at_halt: bool = False
    tau_at_start: bool = False


@dataclass(frozen=True, slots=True)
class _Judgement:
    """A proposal with everything that was found out about it."""

    index: int
    proposal: Proposal
    reward: Reward
    threshold: float
    verdict: Verdict


def stars(context: Context, params: StarsParams) -> Steps:
    """Draw one answer by rejection sampling of segments."""
    progress = Progress(context)
    (initial,) = yield Score((progress.text,))
    widths = params.widths if params.widths is not None else FixedWidth(context.width)
    while progress.finish is None:
        yield from draw_segment(progress, params, widths, initial.value)
    return progress.finish


def draw_segment(
    progress: Progress,
    params: StarsParams,
    widths: WidthPolicy,
    initial: float,
    on_first_round: Observe | None = None,
) -> Generator[Request, Any, None]:
    """Draw attempts at one segment until one is kept. initial: r(x, ""). on_first_round: told
    the first round's proposals and the rewards of its first chunk, whatever is kept."""
    boundary = params.segmentation.boundary(progress.n_left)
    fallback: _Judgement | None = None
    n_judged = 0
    while n_judged < params.max_attempts:
        n = min(widths.next_width(), params.max_attempts - n_judged)
        yield Drawing(progress.n_segments, n_judged, n, params.max_attempts)
        try:
            proposals: tuple[Proposal, ...] = yield Propose(progress.draws(n_judged, n), boundary)
        except Halt as halt:
            if not params.keep_at_halt:
                raise
            yield from progress.keep_at_halt(halt, _forced(progress, fallback), n_judged)
            return
        for offset in range(len(proposals)):
            judgement = yield from _judge(progress, params, proposals, offset, n_judged, initial)
            if n_judged == 0 and on_first_round is not None:
                on_first_round(proposals, progress.rewards)
            n_judged += 1
            widths.observe(accepted=judgement.verdict.accepted)
            if judgement.verdict.accepted:
                yield from _accept(progress, judgement, proposals[offset + 1 :])
                return
            yield _event(progress, judgement, Outcome.REJECTED)
            fallback = yield from _keep_fallback(params.force, fallback, judgement)
    forced = _forced(progress, fallback)
    if forced is None:
        raise ValueError(f"max_attempts is {params.max_attempts}: give at least 1")
    proposal, event = forced
    yield event
    yield from progress.keep(proposal, event.attempt, n_judged)


def _judge(
    progress: Progress,
    params: StarsParams,
    proposals: tuple[Proposal, ...],
    offset: int,
    index: int,
    initial: float,
) -> Generator[Request, Any, _Judgement]:
    """Hold one proposal of a round against its threshold."""
    reward = yield from progress.reward_of(proposals, offset)
    proposal = proposals[offset]
    n_end = progress.n_tokens + proposal.n_tokens
    threshold = params.threshold.at(
        progress.n_tokens if params.tau_at_start else n_end,
        initial,
        n_end=n_end,
        ended=progress.ends(proposal),
    )
    verdict = params.rule(reward, threshold, progress.uniform(index))
    return _Judgement(index, proposal, reward, threshold, verdict)


def _accept(
    progress: Progress, winner: _Judgement, later: tuple[Proposal, ...]
) -> Generator[Request, Any, None]:
    """Keep the winner; attempts after it in its round are spare."""
    accepted = _event(progress, winner, Outcome.ACCEPTED)
    yield accepted
    for n, spare in enumerate(later, start=1):
        yield progress.judged(winner.index + n, spare, Outcome.SPARE)
    yield from progress.keep(winner.proposal, accepted.attempt, winner.index + 1)


def _keep_fallback(
    force: Force, fallback: _Judgement | None, latest: _Judgement
) -> Generator[Request, Any, _Judgement]:
    """Choose which rejected attempt would be forced, and drop the other's branch."""
    if fallback is None:
        return latest
    keep = latest if force is Force.LAST or _rank(latest) > _rank(fallback) else fallback
    yield Reject(((fallback if keep is latest else latest).proposal,))
    return keep


def _rank(judgement: _Judgement) -> tuple[bool, float]:
    """Order of preference for the best so far: gates first, then the reward."""
    return judgement.reward.passed, judgement.reward.value


def _forced(progress: Progress, fallback: _Judgement | None) -> tuple[Proposal, Judged] | None:
    """The attempt to force, with the event that reports it."""
    if fallback is None:
        return None
    return fallback.proposal, _event(progress, fallback, Outcome.FORCED)


def _event(progress: Progress, judgement: _Judgement, outcome: Outcome) -> Judged:
    return progress.judged(
        judgement.index,
        judgement.proposal,
        outcome,
        judgement.reward,
        judgement.threshold,
        judgement.verdict,
    )
