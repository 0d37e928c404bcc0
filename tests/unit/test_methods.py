"""What all methods promise: the ledger, the limits, independence of the width, plain sampling
at their trivial settings."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from stars_local.core.boundaries import BoundaryKind
from stars_local.core.driver import Driver, Task
from stars_local.core.events import Finished, Judged, Kept
from stars_local.core.methods import Context
from stars_local.core.methods.registry import METHODS, MethodParams, build
from stars_local.core.records import Finish, Outcome, Prompt, Result
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Schedule
from tests.support.laws import (
    Gated,
    answer,
    letters_model,
    letters_reward,
    letters_value,
    run_events,
)

MAX_NEW = 14
PARAMS = MethodParams(
    segment_size=4,
    max_attempts=5,
    alpha=0.6,
    beta=0.2,
    reward_threshold=1.2,
    max_new_tokens=MAX_NEW,
    min_tokens=2,
    max_segment_tokens=6,
    entropy_threshold=1.15,
    n=5,
    k=3,
    spread=0.5,
    price=0.02,
)
ALL = sorted(METHODS)


def run(name: str, seed: int, params: MethodParams = PARAMS, **more: Any) -> Result:
    more.setdefault("max_new_tokens", MAX_NEW)
    method = build(name, replace(params, max_new_tokens=more["max_new_tokens"]))
    return answer(letters_model(), letters_reward(), method, seed=seed, **more)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("width", "chunk"), [(1, 0), (3, 1), (3, 2), (8, 0)])
def test_every_attempt_meets_one_fate_in_the_ledger(name: str, width: int, chunk: int) -> None:
    for seed in range(20):
        events = list(
            run_events(
                letters_model(),
                letters_reward(),
                build(name, PARAMS),
                seed,
                max_new_tokens=MAX_NEW,
                width=width,
                score_chunk=chunk,
            )
        )
        result = events[-1].result  # type: ignore[union-attr]
        last = {
            (e.attempt.segment, e.attempt.index): e.attempt for e in events if isinstance(e, Judged)
        }
        fates: Counter[Outcome] = Counter()
        for attempt in last.values():
            fates[attempt.outcome] += attempt.n_tokens
        kept = fates[Outcome.ACCEPTED] + fates[Outcome.FORCED]
        assert result.n_kept_tokens == kept == len(result.token_ids)
        assert result.n_rejected_tokens == fates[Outcome.REJECTED]
        assert result.n_spare_tokens == fates[Outcome.SPARE]
        assert result.n_decoded_tokens == sum(fates.values())
        assert result.text == "".join(e.segment.text for e in events if isinstance(e, Kept))


@pytest.mark.parametrize("name", ALL)
def test_the_text_does_not_depend_on_width_chunk_or_free_branches(name: str) -> None:
    for seed in range(60):
        alone = run(name, seed)
        for width, chunk in ((2, 1), (3, 2), (9, 0)):
            wide = run(name, seed, width=width, score_chunk=chunk)
            assert wide.token_ids == alone.token_ids
            assert wide.segments == alone.segments
        tight = answer(
            letters_model(max_branches=3),
            letters_reward(),
            build(name, PARAMS),
            seed=seed,
            max_new_tokens=MAX_NEW,
            width=9,
        )
        assert tight.token_ids == alone.token_ids


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("width", [1, 4])
def test_the_budget_of_decoded_tokens_is_never_exceeded(name: str, width: int) -> None:
    for budget, seed in itertools.product(range(1, 60, 3), range(5)):
        result = run(name, seed, width=width, max_decoded_tokens=budget)
        assert result.n_kept_tokens <= result.n_decoded_tokens <= budget
        if result.finish_reason is Finish.LENGTH:
            assert result.n_kept_tokens == MAX_NEW


@pytest.mark.parametrize("name", ["best-of-n", "rejection"])
@pytest.mark.parametrize("width", [1, 5])
def test_whole_answers_keep_something_when_a_limit_ends_them(name: str, width: int) -> None:
    hard = replace(PARAMS, reward_threshold=99.0, beta=0.0, max_attempts=30, n=30)
    ticks = itertools.count()
    context = Context(SeedSource(0, "p"), MAX_NEW, width=width)
    for limit in (3, 30, 150):
        task = Task(
            Prompt("p", text="x"), build(name, hard), name, context, max_seconds=float(limit)
        )
        driver = Driver(letters_model(), letters_reward(), clock=lambda: float(next(ticks)))
        (result,) = [e.result for e in driver.stream(task) if isinstance(e, Finished)]
        assert result.finish_reason is Finish.DEADLINE
        assert result.n_kept_tokens > 0
        assert [s.outcome for s in result.segments][:-1] == []
        if limit == 150:  # whole answers were scored by then: the best of them is kept
            assert result.segments[0].reward is not None


@pytest.mark.parametrize(
    ("name", "trivial"),
    [
        ("best-of-n", {"n": 1}),
        ("blockwise", {"k": 1}),
        ("stars", {"reward_threshold": -math.inf}),
        ("rejection", {"reward_threshold": -math.inf}),
        ("adaptive", {"budget": 1.0}),
        ("stopping", {"price": 1e9}),
    ],
)
def test_trivial_settings_are_plain_sampling(name: str, trivial: dict[str, Any]) -> None:
    for seed in range(60):
        steered = run(name, seed, replace(PARAMS, **trivial), width=3)
        plain = run("vanilla", seed)
        assert steered.token_ids == plain.token_ids
        assert steered.finish_reason == plain.finish_reason


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("stars", {}),
        ("stars", {"tau_at_start": True}),
        ("stars", {"boundary": BoundaryKind.ENTROPY}),
        ("stars", {"segment_size": 3, "quantile_size": 4}),
        ("cards", {}),
        ("rejection", {}),
    ],
)
def test_quantiles_go_by_tokens_whatever_the_segments_are(name: str, own: dict[str, Any]) -> None:
    quantiles = (0.2, 0.5, 0.9)
    changed = replace(PARAMS, schedule=Schedule.QUANTILE, quantiles=quantiles, **own)
    met = set()
    for seed in range(30):
        n = 0
        for segment in run(name, seed, changed).segments:
            n += segment.n_tokens
            place = min(math.ceil(n / 4) - 1, len(quantiles) - 1)
            assert segment.threshold == quantiles[place]
            met.add(place)
    assert len(met) > 1


STEERED = [name for name in ALL if METHODS[name].scores]


@pytest.mark.parametrize("name", STEERED)
@pytest.mark.parametrize("width", [1, 3])
def test_what_fails_its_gates_is_never_accepted(name: str, width: int) -> None:
    for seed in range(20):
        method = build(name, PARAMS)
        result = answer(
            letters_model(),
            Gated(letters_value, lambda _: False),
            method,
            seed=seed,
            max_new_tokens=MAX_NEW,
            width=width,
        )
        assert {segment.outcome for segment in result.segments} == {Outcome.FORCED}


@pytest.mark.parametrize("name", STEERED)
@pytest.mark.parametrize("width", [1, 3])
def test_an_attempt_that_passes_goes_before_any_that_fails(name: str, width: int) -> None:
    n_accepted = n_forced = 0
    for seed in range(40):
        events = run_events(
            letters_model(),
            Gated(letters_value, lambda text: text.count("c") > text.count("a")),
            build(name, replace(PARAMS, reward_threshold=-math.inf)),
            seed,
            max_new_tokens=MAX_NEW,
            width=width,
        )
        last = {
            (e.attempt.segment, e.attempt.index): e.attempt for e in events if isinstance(e, Judged)
        }
        passed = {a.segment for a in last.values() if a.passed and a.outcome is not Outcome.SPARE}
        for attempt in last.values():
            if attempt.outcome is Outcome.ACCEPTED:
                assert attempt.passed
                n_accepted += 1
            elif attempt.outcome is Outcome.FORCED:
                assert not attempt.passed and attempt.segment not in passed
                n_forced += 1
    assert n_accepted > 20 and n_forced > 0


def test_stopping_draws_on_until_an_attempt_passes() -> None:
    """At any price: rewards that failed are worth nothing, however good."""
    dear = replace(PARAMS, price=1e9, max_attempts=7)
    for seed in range(20):
        forced = answer(
            letters_model(),
            Gated(letters_value, lambda _: False),
            build("stopping", dear),
            seed=seed,
            max_new_tokens=MAX_NEW,
        )
        assert {segment.n_attempts for segment in forced.segments} == {7}
        events = run_events(
            letters_model(),
            Gated(letters_value, lambda text: text.endswith("c")),
            build("stopping", dear),
            seed,
            max_new_tokens=MAX_NEW,
        )
        last = {
            (e.attempt.segment, e.attempt.index): e.attempt for e in events if isinstance(e, Judged)
        }
        for attempt in last.values():
            assert attempt.passed == (attempt.outcome is Outcome.ACCEPTED) or attempt.index == 6


def test_cards_cuts_before_uncertain_tokens_within_its_bounds() -> None:
    lengths: Counter[int] = Counter()
    for seed in range(100):
        result = run("cards", seed)
        lengths.update(s.n_tokens for s in result.segments[:-1])
    assert set(lengths) <= set(range(2, 7))
    assert len(lengths) > 2
