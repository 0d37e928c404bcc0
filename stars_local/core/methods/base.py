"""What every decoding method shares: its context, its randomness and its bookkeeping."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from stars_local.core.acceptance import Verdict
from stars_local.core.boundaries import Boundary, BoundaryKind
from stars_local.core.events import Judged, Kept
from stars_local.core.ports import Draw
from stars_local.core.records import (
    Attempt,
    End,
    Finish,
    Outcome,
    Proposal,
    Reward,
    Segment,
)
from stars_local.core.requests import Commit, Halt, Request, Score
from stars_local.core.seeds import SeedSource

_FINISH = {
    End.EOG: Finish.STOP,
    End.STOP_STRING: Finish.STOP_STRING,
    End.CONTEXT: Finish.CONTEXT,
}


@dataclass(frozen=True, slots=True)
class Context:
    """What a method is told about the answer it is to draw.

    prefill: text the response begins with. max_new_tokens > 0. width: attempts drawn in one
    batch, at least 1. score_chunk: texts scored together, 0 for a whole round: a reward model
    that gains nothing from batches is asked in attempt order and spared the rest.
    """

    seeds: SeedSource
    max_new_tokens: int
    prefill: str = ""
    width: int = 1
    score_chunk: int = 0


@dataclass(frozen=True, slots=True)
class Segmentation:
    """How a response is cut: the boundary rule and its lengths in tokens."""

    segment_size: int = 32
    kind: BoundaryKind = BoundaryKind.FIXED
    min_tokens: int = 4
    entropy_threshold: float = 3.0

    def boundary(self, n_left: int) -> Boundary:
        """The rule for the next segment when `n_left` tokens may still be drawn."""
        size = min(self.segment_size, n_left)
        if self.kind is BoundaryKind.FIXED:
            return Boundary(size)
        return Boundary(size, self.kind, min(self.min_tokens, size), self.entropy_threshold)


class Progress:
    """The response so far: text, token count, segment count, why it ended; the attempts judged
    by their rewards and their tokens; and the rewards of the chunk scored last."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.text = context.prefill
        self.n_tokens = 0
        self.n_segments = 0
        self.finish: Finish | None = None
        self.n_judged = 0
        self.n_judged_tokens = 0
        self.rewards: tuple[Reward, ...] = ()

    @property
    def n_left(self) -> int:
        """Tokens that may still be drawn."""
        return self.context.max_new_tokens - self.n_tokens

    def draw(self, attempt: int) -> Draw:
        """The randomness of an attempt at the current segment."""
        return Draw((self.context.seeds.draw(self.n_segments, attempt),), 2**31)

    def draws(self, first: int, n: int) -> tuple[Draw, ...]:
        """The randomness of attempts `first` up to `first + n` at the current segment."""
        return tuple(self.draw(attempt) for attempt in range(first, first + n))

    def uniform(self, attempt: int) -> float:
        """The acceptance number of an attempt at the current segment."""
        return self.context.seeds.uniform(self.n_segments, attempt)

    def ends(self, proposal: Proposal) -> bool:
        """Whether the text of the answer ends inside this proposal."""
        return proposal.end in _FINISH

    def reward_of(
        self, proposals: tuple[Proposal, ...], offset: int
    ) -> Generator[Request, Any, Reward]:
        """The reward of one proposal of a round, asked for in order of `offset`; a chunk is
        scored when it begins."""
        chunk = self.context.score_chunk or len(proposals)
        if offset % chunk == 0:
            texts = tuple(p.extend(self.text) for p in proposals[offset : offset + chunk])
            self.rewards = yield Score(texts)
        self.n_judged += 1
        self.n_judged_tokens += proposals[offset].n_tokens
        return self.rewards[offset % chunk]

    def judged(
        self,
        index: int,
        proposal: Proposal,
        outcome: Outcome,
        reward: Reward | None = None,
        threshold: float | None = None,
        verdict: Verdict | None = None,
    ) -> Judged:
        """The event for an attempt at the current segment."""
        return Judged(
            Attempt(
                segment=self.n_segments,
                index=index,
                text=proposal.text,
                n_tokens=proposal.n_tokens,
                outcome=outcome,
                reward=None if reward is None else reward.value,
                threshold=threshold,
                probability=None if verdict is None else verdict.probability,
                axes={} if reward is None else reward.axes,
                passed=True if reward is None else reward.passed,
                end=proposal.end,
            )
        )

    def keep(self, proposal: Proposal, attempt: Attempt, n_attempts: int) -> Keeping:
        """Commit a proposal as the next segment; its attempt was judged before.

        Sets `finish` if the answer ends with it.
        """
        yield Commit(proposal)
        segment = Segment(
            index=self.n_segments,
            text=proposal.text,
            n_tokens=proposal.n_tokens,
            reward=attempt.reward,
            threshold=attempt.threshold,
            probability=attempt.probability,
            n_attempts=n_attempts,
            outcome=attempt.outcome,
        )
        self.text = proposal.extend(self.text)
        self.n_tokens += proposal.n_tokens
        self.n_segments += 1
        if proposal.end in _FINISH:
            self.finish = _FINISH[proposal.end]
        elif self.n_left <= 0:
            self.finish = Finish.LENGTH
        yield Kept(segment, proposal.token_ids, proposal.n_backtrack)

    def keep_at_halt(self, halt: Halt, best: tuple[Proposal, Judged] | None, n: int) -> Keeping:
        """End the answer with the best proposal so far, else with the first that was cut.

        best: with the event that reports it. n: attempts judged at this segment. Raises the
        halt again where there is nothing to keep.
        """
        if best is None:
            cut = next((p for p in halt.partial if p.n_tokens > 0), None)
            if cut is None:
                raise halt
            best = cut, self.judged(n, cut, Outcome.FORCED)
        proposal, event = best
        yield event
        yield from self.keep(proposal, event.attempt, n)
        self.finish = halt.reason


class WholeAnswer(Progress):
    """Progress of a method whose segments are whole answers.

    An attempt draws with the seeds that plain sampling has in segments of `segment_size`
    tokens, so that the first attempt is the plain answer.
    """

    def __init__(self, context: Context, segment_size: int) -> None:
        super().__init__(context)
        self._segment_size = segment_size

    def draw(self, attempt: int) -> Draw:
        """The randomness of a whole answer."""
        n = -(-self.context.max_new_tokens // self._segment_size)
        seeds = self.context.seeds
        return Draw(tuple(seeds.draw(k, attempt) for k in range(n)), self._segment_size)


Keeping = Generator[Request, Any, None]
