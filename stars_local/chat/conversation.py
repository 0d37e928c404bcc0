"""A conversation as the fold of its records: turns, system message, what is in the context.

    question 1  answer 1  |  question 2  answer 2  ...  question n  [answer under way]
    left the context      |  in the context

Pure: it opens no file and knows no model. A question without an answer (stopped before
anything was accepted) stays for `/retry` but is not shown to the model with later questions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from stars_local.chat.records import (
    Answered,
    Asked,
    Emptied,
    Held,
    Record,
    SegmentKept,
    SystemSet,
    Trimmed,
    Undone,
)
from stars_local.core.errors import DataError
from stars_local.core.records import Attempt, End, Finish, Message, Outcome


@dataclass(slots=True)
class Turn:
    """A question and as much of its answer as was kept; `sha256` is of the model file.

    is_doubted: whether its tokens come from a file and were found not to be its text.
    """

    asked: Asked
    sha256: str
    kept: list[SegmentKept] = field(default_factory=list)
    answered: Answered | None = None
    is_doubted: bool = False

    @property
    def text(self) -> str:
        """The answer so far."""
        text = ""
        for each in self.kept:
            text = text[: len(text) - each.n_backtrack] + each.segment.text
        return text

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """The tokens of the answer; None where a stop string took an unknown part of them."""
        if self.answered is not None and self.answered.token_ids is not None:
            return self.answered.token_ids
        ended = None if self.answered is None else self.answered.finish_reason
        if ended is Finish.STOP_STRING or self._ends_at_stop_string():
            return None
        return tuple(token for each in self.kept for token in each.token_ids)

    def _ends_at_stop_string(self) -> bool:
        """Known of an answer that a crash cut before its end was recorded, too."""
        return any(map(_stops, self.attempts))

    def forget_attempts(self) -> None:
        """Drop the attempts, which are the most of an answer, but for what tells of its end."""
        self.kept = [
            replace(each, attempts=tuple(filter(_stops, each.attempts))) for each in self.kept
        ]
        if self.answered is not None:
            left = tuple(filter(_stops, self.answered.attempts))
            self.answered = replace(self.answered, attempts=left)

    @property
    def attempts(self) -> list[Attempt]:
        """Every attempt, segment by segment, in the order in which they were judged."""
        found = [attempt for each in self.kept for attempt in each.attempts]
        return found if self.answered is None else [*found, *self.answered.attempts]

    def message(self, sha256: str) -> Message:
        """The answer as a message for a model file; tokens go along only to their own."""
        own = sha256 == self.sha256 and not self.is_doubted
        return Message("assistant", self.text, self.token_ids if own else None)


def _stops(attempt: Attempt) -> bool:
    kept = (Outcome.ACCEPTED, Outcome.FORCED)
    return attempt.end is End.STOP_STRING and attempt.outcome in kept


class Conversation:
    """What was said. `apply` is the only way to change it.

    Turns that left the context keep their words and sums, and their attempts in the file alone: a
    long conversation would grow by them without end. The last turn has its attempts always.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.turns: list[Turn] = []
        self.system: str | None = None
        self.held: Held | None = None
        self.n_asked = 0
        self.n_left = 0  # turns that left the context, the oldest ones
        for record in records:
            self.apply(record)

    @property
    def last(self) -> Turn | None:
        """The last turn."""
        return self.turns[-1] if self.turns else None

    def apply(self, record: Record) -> None:
        """Take in what happened. Raises DataError, unchanged, for what cannot have happened."""
        if isinstance(record, Held):
            self.held = record
        elif isinstance(record, SystemSet):
            self.system = record.text
        elif isinstance(record, Asked):
            self._ask(record)
        elif isinstance(record, SegmentKept):
            self._under_way("a segment").kept.append(self._fitting(record))
        elif isinstance(record, Answered):
            self._under_way("the end of an answer").answered = record
        elif isinstance(record, Trimmed):
            self._trim(record.n_turns)
        elif isinstance(record, Undone):
            if not self.turns:
                raise DataError("a turn is taken back, but there is none")
            self.turns.pop()
            self.n_left = min(self.n_left, len(self.turns))
        elif isinstance(record, Emptied):
            self.turns.clear()
            self.n_left = 0

    def messages(
        self, question: str, sha256: str, n_more: int = 0, *, replaces: bool = False
    ) -> tuple[Message, ...]:
        """What the model file `sha256` is given for a question: system message, the turns in
        the context but for the `n_more` oldest of them, the question.

        replaces: the question takes the place of the last turn."""
        found = [] if self.system is None else [Message("system", self.system)]
        last = len(self.turns) - 1 if replaces else len(self.turns)
        for turn in self.turns[self.n_left + n_more : last]:
            if turn.kept:
                found += [Message("user", turn.asked.text), turn.message(sha256)]
        return (*found, Message("user", question))

    @property
    def n_trimmable(self) -> int:
        """Turns that could still leave the context."""
        return len(self.turns) - self.n_left

    def _ask(self, record: Asked) -> None:
        if self.held is None:
            raise DataError("a question is asked before any model is named")
        self.turns.append(Turn(record, self.held.sha256))
        self.n_asked = max(self.n_asked, record.draw) + 1

    def _under_way(self, what: str) -> Turn:
        if not self.turns or self.turns[-1].answered is not None:
            raise DataError(f"{what} belongs to no answer under way")
        return self.turns[-1]

    def _fitting(self, record: SegmentKept) -> SegmentKept:
        if record.n_backtrack > len(self.turns[-1].text):
            raise DataError("a segment takes back more than was written")
        return record

    def _trim(self, n_turns: int) -> None:
        if n_turns > self.n_trimmable:
            raise DataError(f"{n_turns} turns leave the context, which holds {self.n_trimmable}")
        # the last turn keeps its attempts, for `/why`, even once it has left
        first = max(0, self.n_left - 1)
        self.n_left += n_turns
        for turn in self.turns[first : min(self.n_left, len(self.turns) - 1)]:
            turn.forget_attempts()
