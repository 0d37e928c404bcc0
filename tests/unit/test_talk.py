"""Talking over the doubles: recorded before shown, seeds, full contexts, interrupts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stars_local.chat.records import Answered, SegmentKept
from stars_local.chat.session import Session, read_session
from stars_local.chat.talk import MakeTask, Talk, TurnsLeft
from stars_local.core.doubles import EnumerableModel, TableReward
from stars_local.core.driver import Task
from stars_local.core.errors import PromptTooLongError
from stars_local.core.events import Event, Finished, Kept, Started
from stars_local.core.methods.base import Context
from stars_local.core.methods.registry import MethodParams, build
from stars_local.core.records import Finish, Prompt, Result
from stars_local.core.seeds import SeedSource


def model(n_ctx: int = 4096, end: float = 0.0) -> EnumerableModel:
    share = (1.0 - end) / 2
    return EnumerableModel(("a", "b"), lambda _: (share, share, end), n_ctx=n_ctx)


def tasks(seed: int = 1, stop: tuple[str, ...] = (), n: int = 12) -> MakeTask:
    params = MethodParams(segment_size=4, max_attempts=3, reward_threshold=1.0, max_new_tokens=n)

    def make(prompt: Prompt, draw: int) -> Task:
        context = Context(SeedSource(seed, prompt.id, draw), n)
        return Task(prompt, build("stars", params), "stars", context, stop=stop, keep=True)

    return make


REWARD = TableReward(lambda text: text.count("a") / 4)


@pytest.fixture(name="session")
def _session(tmp_path: Path) -> Iterator[Session]:
    with Session.create(tmp_path) as session:
        yield session


def last(events: Iterator[Event | TurnsLeft]) -> Result:
    return next(event.result for event in events if isinstance(event, Finished))


def test_every_segment_is_on_the_disk_before_it_is_shown(session: Session) -> None:
    n_shown = 0
    for event in Talk(session, model(), REWARD).ask("hi", tasks(), seed=1):
        if isinstance(event, Kept):
            n_shown += 1
            on_disk = [r for r in read_session(session.path)[1] if isinstance(r, SegmentKept)]
            assert len(on_disk) == n_shown
            assert on_disk[-1].segment == event.segment
            assert len(on_disk[-1].attempts) >= event.segment.n_attempts
    assert n_shown == 3


def test_the_file_says_what_was_said(session: Session) -> None:
    talk = Talk(session, model(), REWARD)
    results = [last(talk.ask(question, tasks(), seed=1)) for question in ("one", "two")]
    session.close()
    with Session.resume(session.path) as again:
        turns = again.conversation.turns
        assert [turn.asked.text for turn in turns] == ["one", "two"]
        assert [turn.text for turn in turns] == [result.text for result in results]
        assert [turn.token_ids for turn in turns] == [result.token_ids for result in results]
        assert turns[-1].attempts == talk.conversation.turns[-1].attempts


def test_a_turn_prefills_only_what_is_new(session: Session) -> None:
    talk = Talk(session, model(), REWARD)
    first = last(talk.ask("one", tasks(), seed=1))
    second = last(talk.ask("two", tasks(), seed=1))
    assert second.n_reused_tokens == first.n_prompt_tokens + first.n_kept_tokens


def test_the_same_seed_is_the_same_conversation_and_asking_again_is_not(tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        with Session.create(tmp_path) as session:
            talk = Talk(session, model(), REWARD)
            texts.append([last(talk.ask("same", tasks(), seed=1)).text for _ in range(4)])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_the_oldest_turns_leave_a_full_context_and_the_person_is_told(session: Session) -> None:
    talk = Talk(session, model(n_ctx=110), REWARD)
    left, sizes = [], []
    for n in range(8):
        for event in talk.ask(f"question {n}", tasks(), seed=1, least_room=12):
            if isinstance(event, TurnsLeft):
                left.append(event.n_turns)
            elif isinstance(event, Started):
                sizes.append(event.n_prompt_tokens)
            elif isinstance(event, Finished):
                assert event.result.finish_reason is Finish.LENGTH
    assert sum(left) == talk.conversation.n_left > 0
    assert max(sizes) <= 110 - 12
    assert len(talk.conversation.turns) == 8
    records = read_session(session.path)[1]
    assert type(talk.conversation)(records).n_left == talk.conversation.n_left


def test_turns_leave_together_so_that_what_stays_is_prefilled_once_in_several_turns(
    session: Session,
) -> None:
    talk = Talk(session, model(n_ctx=300), REWARD)
    rooms, full, prefilled = [], [], []
    for n in range(40):
        for event in talk.ask(f"question {n:02}", tasks(n=8), seed=1, least_room=12):
            if isinstance(event, TurnsLeft):
                full.append(n)
            elif isinstance(event, Started):
                rooms.append(300 - event.n_prompt_tokens)
                prefilled.append(event.n_prompt_tokens - event.n_reused_tokens)
    assert all(112 <= rooms[n] < 160 for n in full), "a third of the context is free, and no more"
    assert min(rooms) >= 12
    assert len(full) <= 40 // 3, "not one by one"
    assert all(prefilled[n] < 50 for n in range(40) if n not in full)


@pytest.mark.parametrize("n_answer", [25, 64, 80])
def test_long_answers_too_leave_room_for_several_turns(session: Session, n_answer: int) -> None:
    talk = Talk(session, model(n_ctx=600), REWARD)
    full = 0
    for n in range(24):
        for event in talk.ask(f"question {n:02}", tasks(n=n_answer), seed=1, least_room=n_answer):
            full += isinstance(event, TurnsLeft)
    assert 0 < full <= 24 // 2


def test_a_turn_that_is_replaced_does_not_count_among_those_that_leave(session: Session) -> None:
    talk = Talk(session, model(n_ctx=200), REWARD)
    for n in range(4):
        last(talk.ask(f"question {n}", tasks(n=8), seed=1, least_room=12))
    last(talk.ask("x" * 150, tasks(n=8), seed=1, least_room=12, replaces=True))
    assert [turn.asked.text[:10] for turn in talk.conversation.turns[-2:]] == [
        "question 2",
        "x" * 10,
    ]
    assert talk.conversation.n_left == len(talk.conversation.turns) - 1
    records = read_session(session.path)[1]
    assert type(talk.conversation)(records).n_left == talk.conversation.n_left


def test_a_long_question_takes_no_more_turns_away_than_it_must(session: Session) -> None:
    talk = Talk(session, model(n_ctx=200), REWARD)
    for n in range(3):
        last(talk.ask(f"question {n}", tasks(n=8), seed=1, least_room=12))
    for event in talk.ask("x" * 125, tasks(n=8), seed=1, least_room=12):
        if isinstance(event, Started):
            assert 12 <= 200 - event.n_prompt_tokens < 66  # never a third, whatever leaves
    assert 0 < talk.conversation.n_left < 3


def test_a_question_that_can_never_fit_is_refused_and_not_recorded(session: Session) -> None:
    talk = Talk(session, model(n_ctx=60), REWARD)
    last(talk.ask("hi", tasks(n=4), seed=1))
    with pytest.raises(PromptTooLongError):
        last(talk.ask("x" * 100, tasks(), seed=1))
    assert [turn.asked.text for turn in talk.conversation.turns] == ["hi"]
    assert talk.conversation.n_left == 0  # no turn leaves for a question that is refused
    assert last(talk.ask("again", tasks(n=4), seed=1)).text != ""


def test_a_question_takes_the_place_of_the_last_once_it_stands_and_not_before(
    session: Session,
) -> None:
    talk = Talk(session, model(n_ctx=60), REWARD)
    first = last(talk.ask("hi", tasks(n=4), seed=1))
    with pytest.raises(PromptTooLongError):
        last(talk.ask("x" * 100, tasks(), seed=1, replaces=True))
    assert [turn.text for turn in talk.conversation.turns] == [first.text]
    sizes = [
        event.n_prompt_tokens
        for event in talk.ask("ho", tasks(n=4), seed=1, replaces=True)
        if isinstance(event, Started)
    ]
    assert [turn.asked.text for turn in talk.conversation.turns] == ["ho"]
    assert sizes == [first.n_prompt_tokens]  # the turn that it replaces is not in its prompt
    assert type(talk.conversation)(read_session(session.path)[1]).turns == talk.conversation.turns


def test_an_interrupt_keeps_what_was_accepted(session: Session) -> None:
    talk = Talk(session, model(), REWARD)
    for event in talk.ask("hi", tasks(), seed=1):
        if isinstance(event, Kept):
            talk.interrupt()
    turn = talk.conversation.turns[-1]
    assert turn.answered is not None
    assert turn.answered.finish_reason is Finish.INTERRUPTED
    assert len(turn.kept) == 1 and turn.text != ""


def test_an_interrupt_while_turns_are_counted_is_not_lost(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(session, model(), REWARD)
    last(talk.ask("hi", tasks(n=4), seed=1))
    with monkeypatch.context() as patch:
        patch.setattr(Talk, "_n_leaving", lambda *_: talk.interrupt() or 0)
        assert last(talk.ask("again", tasks(), seed=1)).finish_reason is Finish.INTERRUPTED
    assert last(talk.ask("more", tasks(n=4), seed=1)).finish_reason is Finish.LENGTH


def test_an_answer_dropped_half_way_leaves_a_session_that_goes_on(session: Session) -> None:
    talk = Talk(session, model(), REWARD)
    events = talk.ask("hi", tasks(), seed=1)
    kept = next(event for event in events if isinstance(event, Kept))
    del events
    session.close()
    with Session.resume(session.path) as again:
        turn = again.conversation.turns[-1]
        assert turn.answered is None and turn.text == kept.segment.text
        result = last(Talk(again, model(), REWARD).ask("more", tasks(), seed=1))
        assert result.finish_reason is Finish.LENGTH


class Knowing(EnumerableModel):
    """Says which tokens remain, as a real engine does."""

    def message_ids(self, trunk: int) -> tuple[int, ...]:
        """A telltale."""
        return (7, trunk)


@pytest.mark.parametrize("make", [EnumerableModel, Knowing])
def test_tokens_after_a_stop_string_are_those_that_remain(
    session: Session, make: Callable[..., EnumerableModel]
) -> None:
    talk = Talk(session, make(("a", "b"), lambda _: (0.5, 0.5, 0.0)), REWARD)
    result = last(talk.ask("hi", tasks(stop=("ab",)), seed=1))
    assert result.finish_reason is Finish.STOP_STRING
    ended = read_session(session.path)[1][-1]
    assert isinstance(ended, Answered)
    ids = talk.conversation.turns[-1].token_ids
    assert ids is None if make is EnumerableModel else ids is not None and ids[0] == 7
