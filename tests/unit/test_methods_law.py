"""Methods against exact laws by enumeration: who is kept, after how many attempts."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from typing import Any

import pytest

from stars_local.core.acceptance import TiltRule
from stars_local.core.boundaries import Boundary
from stars_local.core.methods import Segmentation, StarsParams
from stars_local.core.methods.best_of_n import best_of_n
from stars_local.core.methods.blockwise import KSchedule, attempts_at, blockwise
from stars_local.core.methods.rejection import rejection
from stars_local.core.methods.stopping import (
    SpreadEstimate,
    StoppingParams,
    expected_improvement,
    stopping,
)
from stars_local.core.records import Outcome, Prompt, Segment
from stars_local.core.thresholds import Threshold
from tests.support.laws import (
    answer,
    first_segment_law,
    g_test,
    letters_model,
    letters_reward,
)

pytestmark = pytest.mark.slow

N_RUNS = 1500
SIZE = 3
ALARM = 1e-4
Ids = tuple[int, ...]


def ids_of(segment: Segment) -> Ids:
    ids = tuple("abc".index(char) for char in segment.text)
    return ids if segment.n_tokens == len(ids) else (*ids, 3)


def firsts(method: Any, max_new_tokens: int, width: int) -> list[Segment]:
    model, reward = letters_model(), letters_reward()
    return [
        answer(
            model,
            reward,
            method,
            prompt_id=f"p{i}",
            max_new_tokens=max_new_tokens,
            width=width,
        ).segments[0]
        for i in range(N_RUNS)
    ]


def table() -> list[tuple[Ids, float, float]]:
    """Every first segment with its probability and reward."""
    model, reward, prompt = letters_model(), letters_reward(), Prompt("law", text="x")
    return [
        (ids, share, reward.score([(prompt, model.text(ids))]).rewards[0].value)
        for ids, share in model.segments((), Boundary(SIZE)).items()
    ]


def best_law(n: int) -> dict[object, float]:
    """P(s is the first best of n) = pi(s) / pi(=) * (pi(<=)^n - pi(<)^n)."""
    rows = table()
    law: dict[object, float] = {}
    for ids, share, value in rows:
        below = sum(p for _, p, v in rows if v < value)
        equal = sum(p for _, p, v in rows if v == value)
        law[ids] = share / equal * ((below + equal) ** n - below**n)
    return law


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("n", [2, 5])
def test_best_of_n_keeps_the_best_answer(n: int, width: int) -> None:
    kept = firsts(lambda c: best_of_n(c, n, 2), SIZE, width)
    # a whole answer of SIZE tokens is a segment of SIZE tokens
    assert g_test(Counter(map(ids_of, kept)), best_law(n)) > ALARM
    assert {s.n_attempts for s in kept} == {n}
    assert {s.outcome for s in kept} == {Outcome.ACCEPTED}


@pytest.mark.parametrize("schedule", list(KSchedule))
def test_blockwise_keeps_the_best_of_as_many_as_its_schedule_says(schedule: KSchedule) -> None:
    kept = firsts(lambda c: blockwise(c, 3, schedule, Segmentation(SIZE)), 4 * SIZE, 4)
    n = {KSchedule.UNIFORM: 3, KSchedule.DECAY: 5, KSchedule.GROW: 1}[schedule]
    assert {s.n_attempts for s in kept} == {n}
    assert g_test(Counter(map(ids_of, kept)), best_law(n)) > ALARM


@pytest.mark.parametrize("schedule", list(KSchedule))
def test_blockwise_spends_by_the_place_of_each_segment(schedule: KSchedule) -> None:
    wanted = {
        KSchedule.UNIFORM: [3, 3, 3, 3],
        KSchedule.DECAY: [5, 4, 2, 1],
        KSchedule.GROW: [1, 2, 4, 5],
    }[schedule]
    reached = 0
    for seed in range(40):
        result = answer(
            letters_model(),
            letters_reward(),
            lambda c: blockwise(c, 3, schedule, Segmentation(SIZE)),
            prompt_id=f"p{seed}",
            max_new_tokens=4 * SIZE,
            width=2,
        )
        spent = [segment.n_attempts for segment in result.segments]
        assert spent == wanted[: len(spent)]
        reached = max(reached, len(spent))
    assert reached == 4


@pytest.mark.parametrize("schedule", list(KSchedule))
@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_schedules_spend_the_same_in_all(schedule: KSchedule, k: int) -> None:
    for m in range(1, 12):
        attempts = [attempts_at(i, m, k, schedule) for i in range(m)]
        assert min(attempts) >= 1
        assert abs(sum(attempts) - k * m) <= m / 2
        if schedule is not KSchedule.UNIFORM:
            assert attempts == sorted(attempts, reverse=schedule is KSchedule.DECAY)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("ended_at_r_star", [False, True])
def test_rejection_of_whole_answers_follows_the_law(width: int, ended_at_r_star: bool) -> None:
    threshold = Threshold(1.0, 0.5, SIZE, ended_at_r_star=ended_at_r_star)
    params = StarsParams(threshold, TiltRule(0.4), Segmentation(2), 4)
    law = first_segment_law(letters_model(), letters_reward(), threshold, 0.4, Boundary(SIZE), 4)
    kept = firsts(lambda c: rejection(c, params), SIZE, width)
    accepted = [s for s in kept if s.outcome is Outcome.ACCEPTED]
    assert g_test(Counter(map(ids_of, accepted)), dict(law.accepted)) > ALARM
    assert g_test(Counter(s.n_attempts for s in kept), dict(law.attempts())) > ALARM


@pytest.mark.parametrize("width", [1, 3])
def test_stopping_follows_its_rule(width: int) -> None:
    params = StoppingParams(0.12, 0.6, Segmentation(SIZE), max_attempts=3)
    law: dict[object, float] = Counter()
    for draws in itertools.product(table(), repeat=3):
        share = math.prod(p for _, p, _ in draws)
        n = next((i for i in (1, 2) if stops(draws[:i], params)), 3)
        best = max(draws[:n], key=lambda row: row[2])
        law[best[0], n] += share
    kept = firsts(lambda c: stopping(c, params), 2 * SIZE, width)
    assert len({n for _, n in law}) == 3, "the case must be able to stop everywhere"
    assert g_test(Counter((ids_of(s), s.n_attempts) for s in kept), law) > ALARM


def stops(draws: tuple[tuple[Ids, float, float], ...], params: StoppingParams) -> bool:
    rewards = [value for _, _, value in draws]
    spread = math.sqrt(
        (8 * params.spread**2 + sum((r - statistics.fmean(rewards)) ** 2 for r in rewards))
        / (8 + len(rewards) - 1)
    )
    n_tokens = statistics.fmean(len(ids) for ids, _, _ in draws)
    return expected_improvement(rewards, spread) < params.price * n_tokens


@pytest.mark.parametrize("rewards", [[0.3], [0.0, 1.0], [-2.0, 0.1, 0.2], [5.0, 1.0, 1.0, 1.0]])
def test_expected_improvement_is_the_integral(rewards: list[float]) -> None:
    spread, n, best = 0.7, len(rewards), max(rewards)
    predictive = statistics.NormalDist(statistics.fmean(rewards), spread * math.sqrt(1 + 1 / n))
    step = 1e-3
    grid = (best + (i + 0.5) * step for i in range(10_000))
    integral = sum((r - best) * predictive.pdf(r) * step for r in grid)
    assert expected_improvement(rewards, spread) == pytest.approx(integral, abs=1e-5)


def test_a_lower_price_buys_more_attempts_and_a_price_of_nothing_all() -> None:
    def mean_attempts(price: float) -> float:
        params = StoppingParams(price, 0.6, Segmentation(SIZE), 9)
        kept = [
            s
            for i in range(150)
            for s in answer(
                letters_model(), letters_reward(), lambda c: stopping(c, params), prompt_id=f"{i}"
            ).segments
        ]
        return statistics.fmean(s.n_attempts for s in kept)

    means = [mean_attempts(price) for price in (3.0, 0.05, 0.02, 0.0)]
    assert means == sorted(means)
    assert (means[0], means[-1]) == (1.0, 9.0)


def test_the_spread_learns_from_positions_that_are_done() -> None:
    estimate = SpreadEstimate(1.0)
    for _ in range(200):
        estimate.learn([0.0, 6.0], 1.0)
        estimate.learn([], 1.0)  # no attempt passed
    assert estimate.value([1.0]) == pytest.approx(math.sqrt(18), rel=0.05)
    estimate.learn([0.0, 6.0], 0.1)
    assert estimate.value([1.0]) == pytest.approx(0.1 * math.sqrt(18), rel=0.05)
    assert SpreadEstimate(1.0).value([1.0]) == 1.0
