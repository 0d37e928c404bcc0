"""Conversations as folds: what the model is shown, what cannot have happened."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.chat.conversation import Conversation
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
from stars_local.core.records import Attempt, End, Finish, Message, Outcome, Segment

MODEL = Held("m", "aa", None)


def kept(index: int, text: str, token_ids: tuple[int, ...], n_backtrack: int = 0) -> SegmentKept:
    segment = Segment(index, text, len(token_ids), None, None, None, 1, Outcome.ACCEPTED)
    return SegmentKept(segment, token_ids, n_backtrack, ())


def ended(finish: Finish = Finish.STOP, token_ids: tuple[int, ...] | None = None) -> Answered:
    return Answered("stars", finish, 1, 0, 1, 0, 0, 1.0, token_ids)


def turn(n: int) -> list[Record]:
    return [Asked(f"q{n}", 7, n), kept(0, f"a{n}", (n,)), ended()]


def test_the_model_is_shown_system_turns_and_question() -> None:
    talk = Conversation([MODEL, SystemSet("be kind"), *turn(0), *turn(1)])
    assert talk.messages("q2", "aa") == (
        Message("system", "be kind"),
        Message("user", "q0"),
        Message("assistant", "a0", (0,)),
        Message("user", "q1"),
        Message("assistant", "a1", (1,)),
        Message("user", "q2"),
    )


def test_tokens_go_along_only_to_the_file_that_drew_them() -> None:
    talk = Conversation([MODEL, *turn(0), Held("n", "bb", None), *turn(1)])
    assert [m.token_ids for m in talk.messages("q", "bb")] == [None, None, None, (1,), None]
    assert [m.token_ids for m in talk.messages("q", "aa")] == [None, (0,), None, None, None]


def test_what_was_kept_of_a_cut_answer_is_shown() -> None:
    talk = Conversation([MODEL, Asked("q", 0, 0), kept(0, "one ", (1, 2)), kept(1, "two", (3,))])
    assert talk.messages("next", "aa")[1] == Message("assistant", "one two", (1, 2, 3))


def test_a_question_without_any_answer_is_not_shown_but_can_be_asked_again() -> None:
    talk = Conversation([MODEL, Asked("q", 0, 0), ended(Finish.INTERRUPTED)])
    assert talk.messages("next", "aa") == (Message("user", "next"),)
    assert talk.last is not None and talk.last.asked.text == "q"


def test_a_stop_string_takes_text_and_tokens_away() -> None:
    parts = [Asked("q", 0, 0), kept(0, "hello US", (1, 2)), kept(1, "", (3,), n_backtrack=3)]
    unsure = Conversation([MODEL, *parts, ended(Finish.STOP_STRING)])
    known = Conversation([MODEL, *parts, ended(Finish.STOP_STRING, (1,))])
    assert unsure.messages("n", "aa")[1] == Message("assistant", "hello", None)
    assert known.messages("n", "aa")[1] == Message("assistant", "hello", (1,))


def test_a_crash_after_a_stop_string_leaves_no_tokens_beyond_the_text() -> None:
    attempt = Attempt(0, 0, "hello", 3, Outcome.ACCEPTED, end=End.STOP_STRING)
    part = replace(kept(0, "hello", (1, 2, 3)), attempts=(attempt,))
    talk = Conversation([MODEL, Asked("q", 0, 0), part])
    assert talk.messages("n", "aa")[1] == Message("assistant", "hello", None)


@given(st.integers(0, 4), st.data())
def test_turns_leave_from_the_oldest_and_stay_on_record(n_turns: int, data: st.DataObject) -> None:
    talk = Conversation([MODEL, SystemSet("s"), *(r for n in range(n_turns) for r in turn(n))])
    n_left = data.draw(st.integers(0, n_turns))
    talk.apply(Trimmed(n_left))
    shown = [m.content for m in talk.messages("new", "aa")]
    turns = range(n_left, n_turns)
    assert shown == ["s", *(f"{who}{n}" for n in turns for who in "qa"), "new"]
    assert len(talk.turns) == n_turns
    with pytest.raises(DataError):
        talk.apply(Trimmed(n_turns - n_left + 1))


def test_every_question_has_a_draw_of_its_own_taken_back_or_not() -> None:
    talk = Conversation([MODEL])
    draws = []
    for _ in range(3):
        draws.append(talk.n_asked)
        talk.apply(Asked("q", 0, talk.n_asked))
        talk.apply(ended())
        talk.apply(Undone())
    talk.apply(Emptied())
    assert [*draws, talk.n_asked] == [0, 1, 2, 3]


def test_taking_back_a_turn_and_emptying_keep_the_system_message() -> None:
    talk = Conversation([MODEL, SystemSet("s"), *turn(0), *turn(1), Trimmed(2), Undone()])
    assert talk.n_left == 1 and talk.n_trimmable == 0
    talk.apply(Emptied())
    assert (talk.system, talk.turns, talk.n_left) == ("s", [], 0)


@pytest.mark.parametrize(
    "records",
    [
        [Asked("no model yet", 0, 0)],
        [MODEL, Undone()],
        [MODEL, kept(0, "a", (1,))],
        [MODEL, ended()],
        [MODEL, Asked("q", 0, 0), ended(), ended()],
        [MODEL, Asked("q", 0, 0), ended(), kept(0, "a", (1,))],
        [MODEL, Asked("q", 0, 0), kept(0, "a", (1,), n_backtrack=1)],
    ],
)
def test_what_cannot_have_happened_is_refused(records: list[Record]) -> None:
    with pytest.raises(DataError):
        Conversation(records)


def test_turns_that_left_keep_all_but_their_attempts_and_the_last_keeps_these_too() -> None:
    tried = [Attempt(0, i, f"try {i}", 1, Outcome.REJECTED) for i in (0, 1)]
    stop = replace(tried[1], outcome=Outcome.ACCEPTED, end=End.STOP_STRING)
    records: list[Record] = [MODEL]
    for i in range(3):
        asked, segment, answered = turn(i)
        assert isinstance(segment, SegmentKept)
        records += [asked, replace(segment, attempts=(*tried, stop)), answered]
    talk, whole = Conversation([*records, Trimmed(3)]), Conversation(records)
    assert [each.attempts for each in talk.turns] == [[stop], [stop], [*tried, stop]]
    for mine, other in zip(talk.turns, whole.turns, strict=True):
        assert (mine.text, mine.token_ids) == (other.text, other.token_ids)
        assert [each.segment for each in mine.kept] == [each.segment for each in other.kept]
