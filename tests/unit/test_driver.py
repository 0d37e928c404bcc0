"""The driver: its ledger, its limits, lockstep, and what is left after an error."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stars_local.core.acceptance import CoinRule, TiltRule
from stars_local.core.doubles import EnumerableModel, TableReward
from stars_local.core.driver import Driver, Task
from stars_local.core.errors import PromptTooLongError, RewardValueError
from stars_local.core.events import Drawing, Finished, Judged, Kept, Started
from stars_local.core.methods import Context, Segmentation, StarsParams, stars, vanilla
from stars_local.core.records import Finish, Outcome, Prompt, Result
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Threshold
from tests.support.laws import answer, letters_model, letters_reward, run_events


def coin(rate: float = 0.3, size: int = 4, max_attempts: int = 6) -> Any:
    p = StarsParams(Threshold(1.0, 0.5, 40), CoinRule(rate), Segmentation(size), max_attempts)
    return lambda context: stars(context, p)


def plain(size: int = 4) -> Any:
    return lambda context: vanilla(context, Segmentation(size))


def speller(text: str) -> EnumerableModel:
    """Draws one text, letter by letter, and nothing else."""
    letters = sorted(set(text))

    def distribution(ids: tuple[int, ...]) -> list[float]:
        return [float(letter == text[len(ids)]) for letter in letters] + [0.0]

    return EnumerableModel(letters, distribution)


def endless() -> EnumerableModel:
    return EnumerableModel("ab", lambda ids: (0.5, 0.5, 0.0))


@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([0, 1, 2]),
    st.floats(0.05, 1.0),
    st.integers(1, 7),
)
@settings(max_examples=60, deadline=None)
def test_the_ledger_adds_up(seed: int, width: int, chunk: int, rate: float, cap: int) -> None:
    events = list(
        run_events(
            letters_model(),
            letters_reward(),
            coin(rate, max_attempts=cap),
            seed,
            max_new_tokens=30,
            width=width,
            score_chunk=chunk,
        )
    )
    result = _result(events)
    last = {}
    for event in events:
        if isinstance(event, Judged):
            last[event.attempt.segment, event.attempt.index] = event.attempt
    by_fate: Counter[Outcome] = Counter()
    for attempt in last.values():
        by_fate[attempt.outcome] += attempt.n_tokens
    assert result.n_kept_tokens == by_fate[Outcome.ACCEPTED] + by_fate[Outcome.FORCED]
    assert result.n_rejected_tokens == by_fate[Outcome.REJECTED]
    assert result.n_spare_tokens == by_fate[Outcome.SPARE]
    assert result.n_decoded_tokens == sum(by_fate.values())
    assert result.n_kept_tokens == len(result.token_ids) == sum(s.n_tokens for s in result.segments)
    assert result.text == "".join(s.text for s in result.segments)
    assert result.text == _printed(events)
    assert all(1 <= s.n_attempts <= cap for s in result.segments)
    if width == 1:
        assert result.n_spare_tokens == 0
        assert result.n_rm_calls == 1 + sum(s.n_attempts for s in result.segments)


def test_events_come_in_order() -> None:
    events = list(run_events(letters_model(), letters_reward(), coin(), max_new_tokens=20))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    kinds = [type(event) for event in events[1:-1]]
    assert kinds[0] is Drawing
    assert kinds[-1] is Kept
    assert all(before is Judged for before, kind in itertools.pairwise(kinds) if kind is Kept)


@given(st.integers(1, 60), st.sampled_from([1, 3, 8]), st.sampled_from(["stars", "vanilla"]))
@settings(max_examples=60, deadline=None)
def test_the_budget_is_never_exceeded(budget: int, width: int, name: str) -> None:
    method = coin(0.2) if name == "stars" else plain()
    result = answer(
        endless(),
        letters_reward(),
        method,
        max_new_tokens=40,
        width=width,
        max_decoded_tokens=budget,
    )
    assert result.n_decoded_tokens <= budget
    if result.n_kept_tokens < 40:
        assert result.finish_reason is Finish.BUDGET
        assert result.n_decoded_tokens == budget


def test_length_stop_and_context_end_an_answer() -> None:
    assert answer(endless(), letters_reward(), plain()).finish_reason is Finish.LENGTH
    ends = EnumerableModel("ab", lambda ids: (0.0, 0.0, 1.0) if len(ids) > 2 else (1.0, 0.0, 0.0))
    result = answer(ends, letters_reward(), plain())
    assert (result.text, result.n_kept_tokens, result.finish_reason) == ("aaa", 4, Finish.STOP)
    short = EnumerableModel("ab", lambda ids: (0.5, 0.5, 0.0), n_ctx=6)
    result = answer(short, letters_reward(), plain())
    assert (result.n_kept_tokens, result.finish_reason) == (5, Finish.CONTEXT)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_stop_strings_span_segments_and_are_never_printed(size: int) -> None:
    spelled = "abcxyzabc"
    model = EnumerableModel(
        "abcxyz",
        lambda ids: [float(i == "abcxyz".index(spelled[len(ids)])) for i in range(6)] + [0.0],
    )
    events = list(run_events(model, letters_reward(), plain(size), stop=("xyz",), max_new_tokens=9))
    result = _result(events)
    assert result.text == "abc"
    assert _printed(events) == "abc"
    assert result.finish_reason is Finish.STOP_STRING


def test_a_stop_string_that_does_not_come_is_printed_in_the_end() -> None:
    model = speller("abxy")
    events = list(run_events(model, letters_reward(), plain(2), stop=("xyz",), max_new_tokens=4))
    assert _printed(events) == "abxy"


def test_a_deadline_ends_an_answer_and_keeps_what_was_accepted() -> None:
    ticks = itertools.count()
    task = Task(
        Prompt("p", text="x"),
        plain(),
        "m",
        Context(SeedSource(0, "p"), 1000),
        max_seconds=100,
    )
    driver = Driver(endless(), None, clock=lambda: float(next(ticks)))
    result = _result(list(driver.stream(task)))
    assert result.finish_reason is Finish.DEADLINE
    assert 0 < result.n_kept_tokens < 1000
    assert len(result.text) == result.n_kept_tokens


def test_an_interrupt_ends_an_answer_and_keeps_what_was_accepted() -> None:
    task = Task(Prompt("p", text="x"), plain(), "m", Context(SeedSource(0, "p"), 1000))
    driver = Driver(endless(), None)
    events = []
    for event in driver.stream(task):
        events.append(event)
        if isinstance(event, Kept) and event.segment.index == 2:
            driver.interrupt()
    result = _result(events)
    assert (result.finish_reason, len(result.segments)) == (Finish.INTERRUPTED, 3)


@pytest.mark.parametrize("n_slots", [1, 2, 5, 9])
def test_lockstep_gives_each_prompt_what_it_gets_alone(n_slots: int) -> None:
    def task(i: int) -> Task:
        context = Context(SeedSource(3, f"p{i}"), 10 + i, width=2)
        return Task(Prompt(f"p{i}", text="x"), coin(), "m", context)

    driver = Driver(letters_model(), letters_reward(), n_slots=n_slots)
    together = {
        index: event.result
        for index, event in driver.run(task(i) for i in range(7))
        if isinstance(event, Finished)
    }
    for i in range(7):
        alone = _result(list(Driver(letters_model(), letters_reward()).stream(task(i))))
        assert together[i].token_ids == alone.token_ids
        assert together[i].segments == alone.segments
        assert together[i].n_decoded_tokens == alone.n_decoded_tokens


def test_short_branches_change_the_rounds_but_not_the_text() -> None:
    for i in range(20):
        wide = answer(letters_model(), letters_reward(), coin(), seed=i, width=6)
        tight = answer(letters_model(max_branches=3), letters_reward(), coin(), seed=i, width=6)
        assert tight.token_ids == wide.token_ids


def test_a_prompt_without_room_waits_for_an_answer_to_end() -> None:
    tight = letters_model(max_branches=4)
    tasks = [
        Task(Prompt(f"p{i}", text="x"), plain(), "m", Context(SeedSource(0, f"p{i}"), 9))
        for i in range(11)
    ]
    found = {
        index: event.result.text
        for index, event in Driver(tight, None, n_slots=9).run(tasks)
        if isinstance(event, Finished)
    }
    roomy = Driver(letters_model(), None)
    assert found == {i: _result(list(roomy.stream(task))).text for i, task in enumerate(tasks)}


def test_a_reward_that_is_no_number_is_an_error_and_closes_the_prompt() -> None:
    model = letters_model()
    with pytest.raises(RewardValueError, match="nan"):
        answer(model, TableReward(lambda text: float("nan")), coin())
    result = answer(model, letters_reward(), coin())
    assert result.n_kept_tokens > 0


def test_a_prompt_that_does_not_fit_is_refused_with_numbers() -> None:
    with pytest.raises(PromptTooLongError, match=r"1 tokens, n_ctx is 1"):
        answer(letters_model(n_ctx=1), letters_reward(), plain())


def test_leaving_the_stream_early_closes_the_prompt() -> None:
    model = letters_model(max_branches=2)
    for _ in range(3):
        stream = Driver(model, letters_reward()).stream(
            Task(Prompt("p", text="x"), coin(), "m", Context(SeedSource(0, "p"), 50))
        )
        for event in stream:
            if isinstance(event, Kept):
                break
        stream.close()
    assert answer(model, letters_reward(), coin()).n_kept_tokens > 0


def test_the_prefill_is_part_of_the_scored_response() -> None:
    seen: list[str] = []

    def value(text: str) -> float:
        seen.append(text)
        return 0.0

    p = StarsParams(Threshold(0.0, 0.5, 8), TiltRule(1.0), Segmentation(4), 2)
    task = Task(
        Prompt("p", text="x", prefill="Sure: "),
        lambda c: stars(c, p),
        "m",
        Context(SeedSource(0, "p"), 8),
    )
    result = _result(list(Driver(endless(), TableReward(value)).stream(task)))
    assert result.text.startswith("Sure: ")
    assert all(text.startswith("Sure: ") for text in seen)


def _result(events: list[Any]) -> Result:
    last = events[-1]
    assert isinstance(last, Finished)
    return last.result


def _printed(events: list[Any]) -> str:
    return "".join(e.printable for e in events if isinstance(e, Kept | Finished))
