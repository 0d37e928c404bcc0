"""An answer to draw, and the ledger of one under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from stars_local.core.boundaries import held_back
from stars_local.core.events import Event, Finished, Judged, Kept, Started
from stars_local.core.methods.base import Context
from stars_local.core.ports import Opened
from stars_local.core.records import (
    Finish,
    Outcome,
    Prompt,
    Result,
    Sampling,
    Scores,
    Segment,
)
from stars_local.core.requests import Propose, Score, Steps


@dataclass(frozen=True, slots=True)
class Task:
    """One answer to draw: a prompt, a method bound to its parameters, and the limits.

    method: called with the context, returns the generator. max_decoded_tokens counts sampled
    tokens of all attempts; max_seconds is wall clock from the opening of the prompt; None is
    no limit. keep: leave the prompt's cells cached for the next turn. overlap: let the language
    model look ahead while the scores of this prompt alone are out.
    """

    prompt: Prompt
    method: Callable[[Context], Steps]
    method_name: str
    context: Context
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    max_decoded_tokens: int | None = None
    max_seconds: float | None = None
    keep: bool = False
    overlap: bool = False


@dataclass(slots=True)
class Run:
    """A task under way: the method's generator, what it waits for, and its ledger.

    decoded = kept + rejected + spare holds by construction: everything decoded that was neither
    kept nor reported as spare was rejected.
    """

    index: int
    task: Task
    opened: Opened
    steps: Steps
    started_at: float
    pending: Propose | Score | None = None
    finish: Finish | None = None
    text: str = ""
    n_printed: int = 0
    segments: list[Segment] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    n_decoded: int = 0
    n_kept: int = 0
    n_spare: int = 0
    n_rm_calls: int = 0
    n_rm_batches: int = 0
    n_rm_tokens: int = 0
    initial_reward: float | None = None

    def started(self) -> Started:
        """The event that begins the answer."""
        return Started(
            self.task.prompt.id,
            self.task.method_name,
            self.opened.n_prompt_tokens,
            self.opened.n_reused_tokens,
            self.task.prompt.prefill,
        )

    def count_scores(self, mine: slice, scores: Scores) -> None:
        """Enter a call of the reward model; `mine` are this answer's texts among those scored.

        A run of the network that served several answers counts for each that had a text in it.
        """
        n_mine = len(scores.rewards[mine])
        self.n_rm_calls += n_mine
        alone = n_mine == len(scores.rewards)
        self.n_rm_batches += scores.n_batches if alone else min(scores.n_batches, n_mine)
        self.n_rm_tokens += sum(scores.n_tokens[mine])

    def record(self, event: Event) -> Event:
        """Enter an event of the method; a Kept one learns what is final to print."""
        if isinstance(event, Judged) and event.attempt.outcome is Outcome.SPARE:
            self.n_spare += event.attempt.n_tokens
        if not isinstance(event, Kept):
            return event
        self.segments.append(event.segment)
        self.token_ids.extend(event.token_ids)
        self.n_kept += event.segment.n_tokens
        self.text = self.text[: len(self.text) - event.n_backtrack] + event.segment.text
        final = len(self.text) - held_back(self.text, self.task.stop)
        printable = self.text[self.n_printed : final]
        self.n_printed = max(self.n_printed, final)
        return replace(event, printable=printable)

    def finished(self, now: float) -> Finished:
        """The event that ends the answer, with its result."""
        if self.finish is None:
            raise ValueError("a run that has not ended has no result")
        result = Result(
            prompt_id=self.task.prompt.id,
            method=self.task.method_name,
            text=self.text,
            finish_reason=self.finish,
            segments=tuple(self.segments),
            token_ids=tuple(self.token_ids),
            n_prompt_tokens=self.opened.n_prompt_tokens,
            n_reused_tokens=self.opened.n_reused_tokens,
            n_kept_tokens=self.n_kept,
            n_rejected_tokens=self.n_decoded - self.n_kept - self.n_spare,
            n_spare_tokens=self.n_spare,
            n_rm_calls=self.n_rm_calls,
            n_rm_batches=self.n_rm_batches,
            n_rm_tokens=self.n_rm_tokens,
            elapsed_s=now - self.started_at,
            seed=self.task.context.seeds.seed,
            initial_reward=self.initial_reward,
        )
        return Finished(result, self.text[self.n_printed :])
