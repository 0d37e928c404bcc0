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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from stars_local.core.errors import OutOfCellsError, RewardValueError
from stars_local.core.events import Event
from stars_local.core.overlap import LooksAhead, beside
from stars_local.core.ports import LanguageModel, Order, RewardModel
from stars_local.core.records import (
    End,
    Finish,
    Prompt,
    Proposal,
    Scores,
)
from stars_local.core.requests import Commit, Halt, Propose, Reject, Request, Score
from stars_local.core.task import Run, Task

__all__ = ["Clock", "Driver", "Task"]

Clock = Callable[[], float]


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

    def stream(self, task: Task) -> Generator[Event, None, None]:
        """Run one task and yield its events; see `run`."""
        with closing(self.run([task])) as events:
            for _, event in events:
                yield event

    def run(self, tasks: Iterable[Task]) -> Generator[tuple[int, Event], None, None]:
        """Run tasks in lockstep; yields (index of the task, event) as things happen.

        Whatever ends the iteration early, the open prompts are closed: `close` it where it may
        not be used up, or an exception under way keeps it and its prompts alive.
        """
        self._interrupted = False
        waiting = iter(enumerate(tasks))
        item = next(waiting, None)
        runs: list[Run] = []
        try:
            while True:
                while len(runs) < self._n_slots and item is not None:
                    run = self._open(*item, may_wait=bool(runs))
                    if run is None:
                        break  # no room until an answer ends
                    runs.append(run)
                    item = next(waiting, None)
                    yield run.index, run.started()
                    yield from self._advance(run, None)
                if not runs:
                    return
                yield from self._round(runs)
                done = [run for run in runs if run.finish is not None]
                runs[:] = [run for run in runs if run.finish is None]
                for run in done:
                    self._lm.close(run.opened.trunk, keep=run.task.keep)
                    yield run.index, run.finished(self._clock())
        finally:
            for run in runs:
                run.steps.close()
                self._lm.close(run.opened.trunk, keep=run.task.keep)

    # -- rounds ------------------------------------------------------------------------------

    def _round(self, runs: Sequence[Run]) -> Iterator[tuple[int, Event]]:
        """Serve every pending score, or, where none is pending, every pending proposal."""
        scoring = [run for run in runs if isinstance(run.pending, Score)]
        if scoring:
            yield from self._score(scoring)
            return
        yield from self._propose([run for run in runs if isinstance(run.pending, Propose)])

    def _score(self, runs: Sequence[Run]) -> Iterator[tuple[int, Event]]:
        if self._rm is None:
            raise ValueError("this method scores responses: give the driver a reward model")
        texts = [_pending_score(run).texts for run in runs]
        items = [
            (run.task.prompt, text) for run, many in zip(runs, texts, strict=True) for text in many
        ]
        scores = self._scores(self._rm, runs, items)
        _check_finite(scores, items)
        first = 0
        for run, many in zip(runs, texts, strict=True):
            mine = slice(first, first + len(many))
            first += len(many)
            run.count_scores(mine, scores)
            rewards = scores.rewards[mine]
            if run.initial_reward is None and many == (run.task.context.prefill,):
                run.initial_reward = rewards[0].value
            yield from self._advance(run, rewards)

    def _scores(
        self, rm: RewardModel, runs: Sequence[Run], items: Sequence[tuple[Prompt, str]]
    ) -> Scores:
        """Scores of these items; a prompt alone may look ahead while they are out."""
        lm = self._lm
        if len(runs) > 1 or not runs[0].task.overlap or not isinstance(lm, LooksAhead):
            return rm.score(items)
        trunk = runs[0].opened.trunk
        return beside(lambda: rm.score(items), lambda: lm.look_ahead(trunk))

    def _propose(self, runs: Sequence[Run]) -> Iterator[tuple[int, Event]]:
        orders: list[Order] = []
        served: list[Run] = []
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

    def _order(self, run: Run) -> Order:
        """What is asked of the language model, trimmed to the budget of decoded tokens."""
        request = _pending_propose(run)
        draws, boundary = request.draws, request.boundary
        if run.task.max_decoded_tokens is not None:
            left = run.task.max_decoded_tokens - run.n_decoded
            draws = draws[: max(1, left // boundary.max_tokens)]
            boundary = boundary.shortened(left)
        return Order(run.opened.trunk, draws, boundary, lambda: self._stopped(run))

    # -- limits ------------------------------------------------------------------------------

    def _stopped(self, run: Run) -> bool:
        return self._interrupted or self._overdue(run)

    def _overdue(self, run: Run) -> bool:
        limit = run.task.max_seconds
        return limit is not None and self._clock() - run.started_at >= limit

    def _exhausted(self, run: Run) -> Finish | None:
        if self._interrupted:
            return Finish.INTERRUPTED
        if self._overdue(run):
            return Finish.DEADLINE
        budget = run.task.max_decoded_tokens
        return Finish.BUDGET if budget is not None and run.n_decoded >= budget else None

    # -- one run -----------------------------------------------------------------------------

    def _open(self, index: int, task: Task, *, may_wait: bool) -> Run | None:
        """Open a task; None where there is no room for it before another answer ends."""
        started = self._clock()
        try:
            opened = self._lm.open(task.prompt, task.sampling, task.stop)
        except OutOfCellsError:
            if may_wait:
                return None
            raise
        steps = task.method(replace(task.context, prefill=task.prompt.prefill))
        return Run(index, task, opened, steps, started, text=task.prompt.prefill)

    def _halt(
        self, run: Run, reason: Finish, partial: tuple[Proposal, ...]
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

    def _advance(self, run: Run, reply: object) -> Iterator[tuple[int, Event]]:
        """Resume a method with a reply and serve it until it waits for a model or ends."""
        run.pending = None
        try:
            request = run.steps.send(reply)
        except StopIteration as stop:
            run.finish = stop.value
            return
        yield from self._serve(run, request)

    def _serve(self, run: Run, request: Request) -> Iterator[tuple[int, Event]]:
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
                yield run.index, run.record(request)
            try:
                request = run.steps.send(None)
            except StopIteration as stop:
                run.finish = stop.value
                return


def _pending_score(run: Run) -> Score:
    if not isinstance(run.pending, Score):
        raise TypeError(f"expected a pending score, found {run.pending!r}")
    return run.pending


def _pending_propose(run: Run) -> Propose:
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
