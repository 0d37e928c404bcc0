"""One conversation under way: from a question to events, each recorded before it is shown.

    talk = Talk(session, model, reward_model)
    for event in talk.ask("How are you?", make_task, seed=1):
        ...

Where the context is full the oldest turns leave it, and a `TurnsLeft` says so. As many leave as
make a third of it free beside the answer's room: all that stays is prefilled anew then.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from stars_local.chat.conversation import Conversation
from stars_local.chat.noting import Noting
from stars_local.chat.records import Answered, Asked, Held, SegmentKept, Trimmed, Undone
from stars_local.chat.session import Session
from stars_local.core.driver import Driver, Task
from stars_local.core.events import Event, Finished, Judged, Kept
from stars_local.core.ports import LanguageModel, RewardModel
from stars_local.core.records import Attempt, Prompt, Result

# The name of every chat's prompts in their seeds: the same --seed, the same conversation.
PROMPT_ID = "chat"
_FREED_SHARE = 3  # this part of the context

MakeTask = Callable[[Prompt, int], Task]


@dataclass(frozen=True, slots=True)
class TurnsLeft:
    """The context was full: this many of the oldest turns left it."""

    n_turns: int


class Talk:
    """A session held with a language model and a reward model.

    The session records which model it is held with before the first question to it.
    """

    def __init__(
        self, session: Session, language_model: LanguageModel, reward_model: RewardModel | None
    ) -> None:
        self.session = session
        self._model = Noting(language_model)
        self._reward_model = reward_model
        self._driver = Driver(self._model, reward_model)
        self._interrupted = False

    @property
    def conversation(self) -> Conversation:
        """What was said so far."""
        return self.session.conversation

    def interrupt(self) -> None:
        """End the answer under way, keeping what was accepted; callable from anywhere."""
        self._interrupted = True
        self._driver.interrupt()

    def ask(
        self,
        question: str,
        make_task: MakeTask,
        *,
        seed: int,
        least_room: int = 1,
        replaces: bool = False,
    ) -> Generator[Event | TurnsLeft, None, None]:
        """Answer a question; yields the driver's events, those of a `Kept` segment only after
        the session holds it.

        make_task: called with the prompt and the number of the question. least_room: tokens
        that an answer must have room for, or else old turns leave. replaces: the last turn is
        taken back once this question stands in the model. Raises what the models raise;
        PromptTooLongError if the question alone is too long, and then nothing is recorded and
        nothing taken back.
        """
        self._interrupted = False
        self._hold()
        draw = self.conversation.n_asked

        def prompt(n_left: int) -> Prompt:
            messages = self.conversation.messages(
                question, self._model.info.weights_sha256, n_left, replaces=replaces
            )
            return Prompt(PROMPT_ID, messages)

        n_left = self._n_leaving(prompt, self.conversation.n_trimmable - replaces, least_room)
        with closing(self._driver.stream(make_task(prompt(n_left), draw))) as events:
            started = next(events)  # raises before anything is recorded
            if self._interrupted:  # while turns were counted: the driver had not begun
                self._driver.interrupt()
            if replaces:
                self.session.append(Undone())
            if n_left > 0:
                self.session.append(Trimmed(n_left))
                yield TurnsLeft(n_left)
            self.session.append(Asked(question, seed, draw))
            yield started
            yield from self._answer(events)

    def _hold(self) -> None:
        reward = None if self._reward_model is None else self._reward_model.info.name
        now = Held(self._model.info.name, self._model.info.weights_sha256, reward)
        if self.conversation.held != now:
            self.session.append(now)

    def _n_leaving(self, prompt: Callable[[int], Prompt], most: int, least_room: int) -> int:
        """How many of the oldest turns leave: none where the answer has room, else so many that
        a part of the context is free beside it, or just its room; all if that is too much.

        prompt: what is asked once so many turns have left; every turn more leaves more room.
        """
        n_ctx = self._model.info.n_ctx

        def room(n_left: int) -> int:
            return n_ctx - len(self._model.encode(prompt(n_left)))

        def least(wanted: int) -> int:
            return bisect_left(range(most), wanted, key=room)

        if most <= 0 or room(0) >= least_room:
            return 0
        wanted = least_room + n_ctx // _FREED_SHARE
        return least(wanted if room(most) >= wanted else least_room)

    def _answer(self, events: Iterator[Event]) -> Iterator[Event]:
        attempts: list[Attempt] = []
        for event in events:
            if isinstance(event, Judged):
                attempts.append(event.attempt)
            elif isinstance(event, Kept):
                kept = SegmentKept(
                    event.segment, event.token_ids, event.n_backtrack, tuple(attempts)
                )
                attempts = []
                self.session.append(kept)
            elif isinstance(event, Finished):
                self.session.append(_answered(event.result, self._model.token_ids, attempts))
            yield event


def _answered(
    result: Result, token_ids: tuple[int, ...] | None, attempts: list[Attempt]
) -> Answered:
    return Answered(
        result.method,
        result.finish_reason,
        result.n_prompt_tokens,
        result.n_reused_tokens,
        result.n_kept_tokens,
        result.n_rejected_tokens,
        result.n_spare_tokens,
        result.elapsed_s,
        token_ids,
        tuple(attempts),
    )
