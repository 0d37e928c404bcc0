"""Drawing attempts at one segment and keeping the best of them.

What best-of-n, blockwise and stopping share; they differ in what a segment is and in when
enough attempts were seen. Gates come before the reward, and the earlier attempt wins a tie. What
is kept is accepted where its gates passed, else forced: no attempt passed. Only the best so far
keeps its branch. The decision to stop is taken after each attempt, in attempt
order, from the attempts up to it: the text does not depend on how many are drawn together.
Attempts of a round after the last that was looked at are spare.

An answer that must end keeps the best so far of the unfinished segment.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from stars_local.core.boundaries import Boundary
from stars_local.core.events import Drawing, Judged
from stars_local.core.methods.base import Progress
from stars_local.core.records import Outcome, Proposal, Reward
from stars_local.core.requests import Halt, Propose, Reject, Request


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scored attempt."""

    index: int
    proposal: Proposal
    reward: Reward

    @property
    def rank(self) -> tuple[bool, float]:
        """Order of preference: gates first, then the reward."""
        return self.reward.passed, self.reward.value


Enough = Callable[[Sequence[Candidate]], bool]


def never(seen: Sequence[Candidate]) -> bool:
    """Draw all attempts that are allowed."""
    return False


def keep_best(
    progress: Progress, boundary: Boundary, max_attempts: int, enough: Enough = never
) -> Generator[Request, Any, None]:
    """Draw attempts at the current segment and keep the best.

    max_attempts: at least 1. enough: told the attempts seen so far, whether to stop.
    """
    seen: list[Candidate] = []
    best: Candidate | None = None
    spare: tuple[Proposal, ...] = ()
    done = False
    while not done and len(seen) < max_attempts:
        n = min(progress.context.width, max_attempts - len(seen))
        yield Drawing(progress.n_segments, len(seen), n, max_attempts)
        try:
            proposals = yield Propose(progress.draws(len(seen), n), boundary)
        except Halt as halt:
            kept = None if best is None else (best.proposal, _kept(progress, best))
            yield from progress.keep_at_halt(halt, kept, len(seen))
            return
        for offset, proposal in enumerate(proposals):
            reward = yield from progress.reward_of(proposals, offset)
            latest = Candidate(len(seen), proposal, reward)
            seen.append(latest)
            best = yield from _better(progress, best, latest)
            done = enough(seen)
            if done:
                spare = proposals[offset + 1 :]
                break
    if best is None:
        raise ValueError(f"max_attempts is {max_attempts}: give at least 1")
    event = _kept(progress, best)
    yield event
    for n, proposal in enumerate(spare):
        yield progress.judged(len(seen) + n, proposal, Outcome.SPARE)
    yield from progress.keep(best.proposal, event.attempt, len(seen))


def _better(
    progress: Progress, best: Candidate | None, latest: Candidate
) -> Generator[Request, Any, Candidate]:
    """The better of the best so far and the latest; the other is reported and dropped."""
    if best is None:
        return latest
    winner, loser = (latest, best) if latest.rank > best.rank else (best, latest)
    yield progress.judged(loser.index, loser.proposal, Outcome.REJECTED, loser.reward)
    yield Reject((loser.proposal,))
    return winner


def _kept(progress: Progress, best: Candidate) -> Judged:
    outcome = Outcome.ACCEPTED if best.reward.passed else Outcome.FORCED
    return progress.judged(best.index, best.proposal, outcome, best.reward)
