"""Stopping against the optimum: its value beside that of dynamic programming, by enumeration."""

from __future__ import annotations

import functools
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest

from stars_local.core.doubles import EnumerableModel, TableReward
from stars_local.core.methods import Segmentation
from stars_local.core.methods.blockwise import KSchedule, blockwise
from stars_local.core.methods.stopping import (
    SpreadEstimate,
    StoppingParams,
    expected_improvement,
    price_of_attempts,
    stopping,
)
from tests.support.laws import Gated, answer

NORMAL = statistics.NormalDist()
LETTERS = "abcdefgh"
# eight alike values with the mean 0 and the variance 1 of a normal distribution, nearly
VALUES = tuple(NORMAL.inv_cdf((i + 0.5) / 8) * 1.07 for i in range(8))
HORIZON = 8


def optimal_value(price: float, values: tuple[float, ...]) -> float:
    """The most that the best reward less the price of attempts can be in the mean, by dynamic
    programming over (attempts, best so far): the distribution is known."""

    @functools.cache
    def value(n: int, best: float) -> float:
        if n == HORIZON:
            return best
        further = statistics.fmean(value(n + 1, max(best, r)) for r in values) - price
        return max(best, further)

    return statistics.fmean(value(1, r) for r in values) - price


def value_of_rule(
    stops: Callable[[tuple[float, ...]], bool], price: float, values: tuple[float, ...]
) -> tuple[float, float]:
    """Mean of best less price, and of attempts, over every sequence of draws."""

    @functools.cache
    def value(seen: tuple[float, ...]) -> tuple[float, float]:
        if len(seen) == HORIZON or stops(seen):
            return max(seen), 0.0
        onward = [value(tuple(sorted((*seen, r)))) for r in values]
        gain = statistics.fmean(v for v, _ in onward) - price
        return gain, 1.0 + statistics.fmean(n for _, n in onward)

    first = [value((r,)) for r in values]
    return (
        statistics.fmean(v for v, _ in first) - price,
        1.0 + statistics.fmean(n for _, n in first),
    )


def our_rule(price: float, spread: float) -> Callable[[tuple[float, ...]], bool]:
    """The method's decision at the first position of an answer."""
    estimate = SpreadEstimate(spread)
    return lambda seen: expected_improvement(seen, estimate.value(seen)) < price


@pytest.mark.parametrize("scale", [0.2, 3.0])
@pytest.mark.parametrize("offset", [-4.0, 0.0, 10.0])
@pytest.mark.parametrize("price", [0.02, 0.05, 0.1, 0.2, 0.4])
def test_the_rule_lies_between_every_fixed_number_and_the_known_optimum(
    price: float, offset: float, scale: float
) -> None:
    values = tuple(offset + scale * value for value in VALUES)
    best = optimal_value(scale * price, values)
    ours, _ = value_of_rule(our_rule(scale * price, scale), scale * price, values)
    assert ours <= best + 1e-9
    assert (best - ours) / scale < {0.02: 0.06, 0.05: 0.1, 0.1: 0.14, 0.2: 0.18, 0.4: 0.25}[price]
    blocks = (
        value_of_rule(lambda seen, k=k: len(seen) == k, scale * price, values)[0]  # type: ignore[misc]
        for k in range(1, HORIZON + 1)
    )
    assert ours > max(blocks), "no fixed number of attempts does better"


@pytest.mark.parametrize("price", [0.05, 0.1, 0.2, 0.4])
def test_looking_one_attempt_ahead_is_optimal_where_the_distribution_is_known(
    price: float,
) -> None:
    def one_ahead(seen: tuple[float, ...]) -> bool:
        return statistics.fmean(max(0.0, r - max(seen)) for r in VALUES) <= price

    ours, _ = value_of_rule(one_ahead, price, VALUES)
    assert ours == pytest.approx(optimal_value(price, VALUES))


@pytest.mark.slow
@pytest.mark.parametrize("price", [0.05, 0.1, 0.2])
def test_the_method_earns_the_value_of_its_rule(price: float) -> None:
    """One-token segments: a token is an attempt, and the price of a token that of an attempt."""
    model = EnumerableModel(LETTERS, lambda _: (*([1 / 8] * 8), 0.0))
    reward = TableReward(lambda text: VALUES[LETTERS.index(text)] if text else 0.0)
    params = StoppingParams(price, 1.0, Segmentation(1), HORIZON)
    wanted, attempts = value_of_rule(our_rule(price, 1.0), price, VALUES)
    earned, spent = [], []
    for i in range(3000):
        (segment,) = answer(
            model, reward, lambda c: stopping(c, params), prompt_id=f"p{i}", max_new_tokens=1
        ).segments
        assert segment.reward is not None
        earned.append(segment.reward - price * segment.n_attempts)
        spent.append(float(segment.n_attempts))
    for found, exact in ((earned, wanted), (spent, attempts)):
        error = statistics.stdev(found) / math.sqrt(len(found))
        assert abs(statistics.fmean(found) - exact) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize(("price", "budget"), [(0.05, None), (0.2, None), (0.0, 3.0)])
def test_attempts_that_fail_their_gates_earn_nothing(price: float, budget: float | None) -> None:
    """Half of the attempts fail: stopping asks twice the price of those that pass."""
    letters = LETTERS + LETTERS.upper()
    model = EnumerableModel(letters, lambda _: (*([1 / 16] * 16), 0.0))
    table = dict(zip(LETTERS, VALUES, strict=True))

    def value(text: str) -> float:
        return table[text[-1].lower()] if text else 0.0

    def attempts(gated: bool, price: float, budget: float | None) -> float:
        reward = Gated(value, lambda text: text[-1:].islower()) if gated else TableReward(value)
        params = StoppingParams(price, 1.0, Segmentation(1), 200, budget)
        return statistics.fmean(
            answer(
                model,
                reward,
                lambda c: stopping(c, params),
                prompt_id=f"p{i}",
                max_new_tokens=1 if budget is None else 8,
            ).n_decoded_tokens
            for i in range(400)
        )

    paid = attempts(True, price, budget)
    if budget is None:
        assert paid == pytest.approx(2 * attempts(False, 2 * price, None), rel=0.2)
    else:
        assert paid / 8 == pytest.approx(budget, rel=0.1)


@pytest.mark.parametrize("attempts", [1.5, 2.0, 4.0, 12.0])
@pytest.mark.parametrize("spread", [0.1, 2.0])
def test_the_price_of_attempts_is_the_gain_above_their_quantile(
    attempts: float, spread: float
) -> None:
    level = NORMAL.inv_cdf(1 - 1 / attempts)
    step = 1e-3
    grid = (level + (i + 0.5) * step for i in range(10_000))
    gain = sum((z - level) * NORMAL.pdf(z) * step for z in grid)
    assert price_of_attempts(attempts, spread) == pytest.approx(spread * gain, abs=1e-5)


def test_where_there_is_one_attempt_none_more_is_worth_its_price() -> None:
    assert price_of_attempts(1.0, 1.0) == price_of_attempts(-3.0, 1.0) == math.inf


FALLING = (0.6, 0.4, 0.27, 0.24, 0.22, 0.17, 0.15, 0.1)  # as of real rewards, every 15 tokens


def walking(text: str) -> float:
    """A reward that each letter moves, by less the later it comes."""
    return sum(
        scale * VALUES[LETTERS.index(letter)] for scale, letter in zip(FALLING, text, strict=False)
    )


def final(params: StoppingParams | int, n: int) -> tuple[float, float, list[float]]:
    """Mean reward and cost of answers by stopping, or by so many attempts a segment, and the mean
    attempts by segment."""
    model = EnumerableModel(LETTERS, lambda _: (*([1 / 8] * 8), 0.0))
    results = [
        answer(
            model,
            TableReward(walking),
            lambda c: (
                blockwise(c, params, KSchedule.UNIFORM, Segmentation(1))
                if isinstance(params, int)
                else stopping(c, params)
            ),
            prompt_id=f"p{i}",
            max_new_tokens=len(FALLING),
        )
        for i in range(n)
    ]
    return (
        statistics.fmean(r.segments[-1].reward or 0.0 for r in results),
        statistics.fmean(r.n_decoded_tokens / r.n_kept_tokens for r in results),
        [statistics.fmean(r.segments[i].n_attempts for r in results) for i in range(len(FALLING))],
    )


@pytest.mark.slow
def test_where_spreads_fall_along_an_answer_stopping_beats_a_fixed_number_at_its_cost() -> None:
    told = StoppingParams(0.0, 0.3, Segmentation(1), 20, 4.0, FALLING, 1)
    ours, cost, by_segment = final(told, 500)
    fixed, fixed_cost, _ = final(4, 500)
    assert cost == pytest.approx(fixed_cost, rel=0.02)
    assert ours > fixed + 0.1
    assert max(by_segment[:-1]) < 1.5 * min(by_segment[:-1]), "a price of each position's own"
    untold, _, by_segment = final(replace(told, spreads=()), 500)
    assert max(by_segment[:-1]) > 2 * min(by_segment[:-1]), "the case must need it"
    assert untold < ours


@pytest.mark.parametrize("n_tokens", [0, 1, 14, 15, 29, 30, 31, 1000])
def test_spreads_are_looked_up_by_tokens_and_the_last_holds_on(n_tokens: int) -> None:
    params = StoppingParams(0.1, 9.0, spreads=(0.5, 0.3, 0.2), spreads_size=15)
    assert params.spread_after(n_tokens) == (0.5, 0.3, 0.2)[min(2, n_tokens // 15)]
    assert replace(params, spreads=()).spread_after(n_tokens) == 9.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "n_segments", "end", "known"),
    [
        (3.0, 4, 0.0, 1.0),
        (5.0, 8, 0.02, 1.0),
        (2.5, 4, 0.02, 3.0),
        (4.0, 6, 0.0, 0.3),
        (1.0, 4, 0.0, 1),
    ],
)
def test_a_budget_is_met_over_two_hundred_answers(
    budget: float, n_segments: int, end: float, known: float
) -> None:
    """known: the spread that the method is told, in true ones."""
    rng = random.Random(2)
    model = EnumerableModel(LETTERS, lambda _: (*([(1 - end) / 8] * 8), end))
    params = StoppingParams(99.0, known * 1.5, Segmentation(3), 20, budget)
    n_decoded = n_kept = 0
    for i in range(200):
        offset = rng.gauss(0.0, 3.0)

        def value(text: str, offset: float = offset) -> float:
            noise = sum(VALUES[LETTERS.index(char)] for char in text)
            return offset + 1.5 * noise / math.sqrt(max(1, len(text))) + len(text) / 6

        result = answer(
            model,
            TableReward(value),
            lambda c: stopping(c, params),
            prompt_id=str(i),
            max_new_tokens=3 * n_segments,
        )
        attempts = [s.n_attempts for s in result.segments]
        assert max(attempts) <= 20
        n_decoded, n_kept = n_decoded + result.n_decoded_tokens, n_kept + result.n_kept_tokens
    assert n_decoded / n_kept == pytest.approx(budget, rel=0.05)
