"""The lockstep driver: runs one method for one prompt or many, and keeps the ledger.

Every round it gathers the proposals that all prompts wait for into one call of the language
model, and all texts that wait for a score into one call of the reward model. Chat is a batch
of one. Slots are refilled as answers end.

Budgets are the driver's: `max_decoded_tokens` is never exceeded (the last draws are trimmed
and shortened to what is left), a deadline or an interrupt ends an answer inside a draw. What
was committed before stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from stars_local.core.boundaries import held_back
from stars_local.core.errors import OutOfCellsError, RewardValueError
from stars_local.core.events import Event, Finished, Judged, Kept, Started
from stars_local.core.methods.base import Context
from stars_local.core.ports import LanguageModel, Opened, Order, RewardModel
from stars_local.core.records import (
    End,
    Finish,
    Outcome,
    Prompt,
    Proposal,
    Result,
    Sampling,
    Scores,
    Segment,
)
from stars_local.core.requests import Commit, Halt, Propose, Reject, Request, Score, Steps

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Task:
    """One answer to draw: a prompt, a method bound to its parameters, and the limits.

    method: called with the context, returns the generator. max_decoded_tokens counts sampled
    tokens of all attempts; max_seconds is wall clock from the opening of the prompt; None is
    no limit. keep: leave the prompt's cells cached for the next turn.
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


@dataclass(slots=True)
class _Run:
    """A task under way."""

    index: int
    task: Task
    opened: Opened
    steps: Steps
    started: float
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


class Driver:
    """Runs tasks over a language model and a reward model; see the module's docstring.

    n_slots: prompts under way at once. One driver serves one thread; `interrupt` may be called
    from another thread or a signal handler.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        reward_model: RewardModel | None,
        *,
        n_slots: int = 1,
        clock: Clock = time.monotonic,
    ) -> None:
        self._lm = language_model
        self._rm = reward_model
        self._n_slots = n_slots
        self._clock = clock
        self._interrupted = False

    def interrupt(self) -> None:
        """End all answers under way as `interrupted`, keeping what was committed."""
        self._interrupted = True

    def stream(self, task: Task) -> Iterator[Event]:
        """Run one task and yield its events."""
        for _, event in self.run([task]):
            yield event

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Event]]:
        """Run tasks in lockstep; yields (index of the task, event) as things happen.

        Whatever ends the iteration early, the open prompts are closed.
        """
        self._interrupted = False
        waiting = iter(enumerate(tasks))
        item = next(waiting, None)
        runs: list[_Run] = []
        try:
            while True:
                while len(runs) < self._n_slots and item is not None:
                    run = self._open(*item, may_wait=bool(runs))
                    if run is None:
                        break  # no room until an answer ends
                    runs.append(run)
                    item = next(waiting, None)
                    yield run.index, self._started(run)
                    yield from self._advance(run, None)
                if not runs:
                    return
                yield from self._round(runs)
                done = [run for run in runs if run.finish is not None]
                runs[:] = [run for run in runs if run.finish is None]
                for run in done:
                    self._lm.close(run.opened.trunk, keep=run.task.keep)
                    yield run.index, self._finished(run)
        finally:
            for run in runs:
                run.steps.close()
                self._lm.close(run.opened.trunk, keep=run.task.keep)

    # -- rounds ------------------------------------------------------------------------------

    def _round(self, runs: Sequence[_Run]) -> Iterator[tuple[int, Event]]:
        """Serve every pending score, or, where none is pending, every pending proposal."""
        scoring = [run for run in runs if isinstance(run.pending, Score)]
        if scoring:
            yield from self._score(scoring)
            return
        yield from self._propose([run for run in runs if isinstance(run.pending, Propose)])

    def _score(self, runs: Sequence[_Run]) -> Iterator[tuple[int, Event]]:
        if self._rm is None:
            raise ValueError("this method scores responses: give the driver a reward model")
        texts = [_pending_score(run).texts for run in runs]
        items = [
            (run.task.prompt, text) for run, many in zip(runs, texts, strict=True) for text in many
        ]
        scores = self._rm.score(items)
        _check_finite(scores, items)
        first = 0
        for run, many in zip(runs, texts, strict=True):
            mine = scores.rewards[first : first + len(many)]
            first += len(many)
            run.n_rm_calls += len(many)
            # a shared run of the network counts for each answer that had a text in it
            run.n_rm_batches += (
                scores.n_batches if len(runs) == 1 else min(scores.n_batches, len(many))
            )
            run.n_rm_tokens += round(scores.n_tokens * len(many) / len(items))
            if run.initial_reward is None and many == (run.task.context.prefill,):
                run.initial_reward = mine[0].value
            yield from self._advance(run, mine)

    def _propose(self, runs: Sequence[_Run]) -> Iterator[tuple[int, Event]]:
        orders: list[Order] = []
        served: list[_Run] = []
        for run in runs:
            reason = self._exhausted(run)
            if reason is not None:
                yield from self._halt(run, reason, ())
                continue
            served.append(run)
            orders.append(self._order(run))
        if not orders:
            return
        replies = self._lm.propose(orders)
        for run, proposals in zip(served, replies, strict=True):
            run.n_decoded += sum(proposal.n_tokens for proposal in proposals)
            if any(proposal.end is End.HALTED for proposal in proposals):
                reason = self._exhausted(run) or Finish.INTERRUPTED
                yield from self._halt(run, reason, proposals)
            else:
                yield from self._advance(run, proposals)

    def _order(self, run: _Run) -> Order:
        """What is asked of the language model, trimmed to the budget of decoded tokens."""
        request = _pending_propose(run)
        draws, boundary = request.draws, request.boundary
        if run.task.max_decoded_tokens is not None:
            left = run.task.max_decoded_tokens - run.n_decoded
            draws = draws[: max(1, left // boundary.max_tokens)]
            boundary = boundary.shortened(left)
        return Order(run.opened.trunk, draws, boundary, lambda: self._stopped(run))

    # -- limits ------------------------------------------------------------------------------

    def _stopped(self, run: _Run) -> bool:
        return self._interrupted or self._overdue(run)

    def _overdue(self, run: _Run) -> bool:
        limit = run.task.max_seconds
        return limit is not None and self._clock() - run.started >= limit

    def _exhausted(self, run: _Run) -> Finish | None:
        if self._interrupted:
            return Finish.INTERRUPTED
        if self._overdue(run):
            return Finish.DEADLINE
        budget = run.task.max_decoded_tokens
        return Finish.BUDGET if budget is not None and run.n_decoded >= budget else None

    # -- one run -----------------------------------------------------------------------------

    def _open(self, index: int, task: Task, *, may_wait: bool) -> _Run | None:
        """Open a task; None where there is no room for it before another answer ends."""
        started = self._clock()
        try:
            opened = self._lm.open(task.prompt, task.sampling, task.stop)
        except OutOfCellsError:
            if may_wait:
                return None
            raise
        steps = task.method(replace(task.context, prefill=task.prompt.prefill))
        return _Run(index, task, opened, steps, started, text=task.prompt.prefill)

    def _started(self, run: _Run) -> Started:
        return Started(
            run.task.prompt.id,
            run.task.method_name,
            run.opened.n_prompt_tokens,
            run.opened.n_reused_tokens,
            run.task.prompt.prefill,
        )

    def _halt(
        self, run: _Run, reason: Finish, partial: tuple[Proposal, ...]
    ) -> Iterator[tuple[int, Event]]:
        """Tell the method that it must end, and take what it still commits."""
        try:
            request = run.steps.throw(Halt(reason, partial))
        except (Halt, StopIteration):
            run.finish = reason
            return
        yield from self._serve(run, request)
        run.steps.close()
        run.finish = reason

    def _advance(self, run: _Run, reply: object) -> Iterator[tuple[int, Event]]:
        """Resume a method with a reply and serve it until it waits for a model or ends."""
        run.pending = None
        try:
            request = run.steps.send(reply)
        except StopIteration as stop:
            run.finish = stop.value
            return
        yield from self._serve(run, request)

    def _serve(self, run: _Run, request: Request) -> Iterator[tuple[int, Event]]:
        trunk = run.opened.trunk
        while True:
            if isinstance(request, Propose | Score):
                run.pending = request
                return
            if isinstance(request, Commit):
                self._lm.commit(trunk, request.proposal)
            elif isinstance(request, Reject):
                self._lm.reject(trunk, request.proposals)
            else:
                yield run.index, self._recorded(run, request)
            try:
                request = run.steps.send(None)
            except StopIteration as stop:
                run.finish = stop.value
                return

    def _recorded(self, run: _Run, event: Event) -> Event:
        """Enter an event into the ledger; a Kept one learns what is final to print."""
        if isinstance(event, Judged) and event.attempt.outcome is Outcome.SPARE:
            run.n_spare += event.attempt.n_tokens
        if not isinstance(event, Kept):
            return event
        run.segments.append(event.segment)
        run.token_ids.extend(event.token_ids)
        run.n_kept += event.segment.n_tokens
        run.text = run.text[: len(run.text) - event.n_backtrack] + event.segment.text
        final = len(run.text) - held_back(run.text, run.task.stop)
        printable = run.text[run.n_printed : final]
        run.n_printed = max(run.n_printed, final)
        return replace(event, printable=printable)

    def _finished(self, run: _Run) -> Finished:
        if run.finish is None:
            raise ValueError("a run that has not ended has no result")
        result = Result(
            prompt_id=run.task.prompt.id,
            method=run.task.method_name,
            text=run.text,
            finish_reason=run.finish,
            segments=tuple(run.segments),
            token_ids=tuple(run.token_ids),
            n_prompt_tokens=run.opened.n_prompt_tokens,
            n_reused_tokens=run.opened.n_reused_tokens,
            n_kept_tokens=run.n_kept,
            n_rejected_tokens=run.n_decoded - run.n_kept - run.n_spare,
            n_spare_tokens=run.n_spare,
            n_rm_calls=run.n_rm_calls,
            n_rm_batches=run.n_rm_batches,
            n_rm_tokens=run.n_rm_tokens,
            elapsed_s=self._clock() - run.started,
            seed=run.task.context.seeds.seed,
            initial_reward=run.initial_reward,
        )
        return Finished(result, run.text[run.n_printed :])


def _pending_score(run: _Run) -> Score:
    if not isinstance(run.pending, Score):
        raise TypeError(f"expected a pending score, found {run.pending!r}")
    return run.pending


def _pending_propose(run: _Run) -> Propose:
    if not isinstance(run.pending, Propose):
        raise TypeError(f"expected a pending proposal, found {run.pending!r}")
    return run.pending


def _check_finite(scores: Scores, items: Sequence[tuple[Prompt, str]]) -> None:
    """Refuse rewards that no threshold could be held against."""
    for reward, (prompt, text) in zip(scores.rewards, items, strict=True):
        if not math.isfinite(reward.value):
            raise RewardValueError(
                f"the reward model gave {reward.value} for a response of {len(text)} characters "
                f"to prompt {prompt.id!r}: check it with 'stars-local reward check'"
            )
