"""Adaptive STARS: the law of a segment, the budget met, and the bounds."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from stars_local.core.acceptance import TiltRule
from stars_local.core.boundaries import Boundary
from stars_local.core.doubles import EnumerableModel, TableReward
from stars_local.core.methods import Segmentation, StarsParams
from stars_local.core.methods.adaptive import ShiftedThreshold, adaptive
from stars_local.core.methods.budgets import attempts_allowed
from stars_local.core.records import Outcome, Result, Segment
from stars_local.core.thresholds import Schedule, Threshold
from tests.support.laws import answer, first_segment_law, g_test, letters_model, letters_reward

SIZE = 3
ALARM = 1e-4
WORTH = dict(zip("abcdefgh", (-1.6, -1.05, -0.63, -0.21, 0.21, 0.63, 1.05, 1.6), strict=True))


def params_of(r_star: float, max_new: int = 60, max_attempts: int = 20) -> StarsParams:
    threshold = Threshold(r_star, 0.5, max_new)
    return StarsParams(threshold, TiltRule(0.1), Segmentation(SIZE), max_attempts)


def ids_of(segment: Segment) -> tuple[int, ...]:
    ids = tuple("abc".index(char) for char in segment.text)
    return ids if segment.n_tokens == len(ids) else (*ids, 3)


def test_a_segment_follows_the_law_of_stars_under_its_cap() -> None:
    params, model, reward = params_of(0.8), letters_model(), letters_reward()
    cap = attempts_allowed(2.0, 0.0)
    law = first_segment_law(model, reward, params.threshold, 0.1, Boundary(SIZE), cap)
    kept = [
        answer(
            model,
            reward,
            lambda c: adaptive(c, params, 2.0, 0.5),
            prompt_id=f"p{i}",
            max_new_tokens=4 * SIZE,
            width=3,
        ).segments[0]
        for i in range(1500)
    ]
    accepted = [s for s in kept if s.outcome is Outcome.ACCEPTED]
    assert g_test(Counter(map(ids_of, accepted)), dict(law.accepted)) > ALARM
    assert g_test(Counter(s.n_attempts for s in kept), dict(law.attempts())) > ALARM


def eight_letters(end: float) -> EnumerableModel:
    """Eight letters alike and an end."""
    return EnumerableModel("abcdefgh", lambda _: (*([(1.0 - end) / 8] * 8), end))


def drifting(offset: float, drift: float, spread: float) -> TableReward:
    """A mean of the letters' worths, rising by `drift` a segment from `offset`."""

    def value(text: str) -> float:
        noise = sum(WORTH[char] for char in text) / math.sqrt(max(1, len(text)))
        return offset + drift * len(text) / SIZE + spread * noise

    return TableReward(value)


@pytest.mark.parametrize(
    ("budget", "spread", "hardness", "n_segments", "end", "drift", "r_star"),
    [
        (3.0, 0.3, 0.0, 4, 0.0, 0.0, 0.5),
        (3.0, 2.0, 1.0, 4, 0.03, 1.0, 1.0),
        (5.0, 2.0, 1.0, 4, 0.0, 1.0, 4.0),
        (5.0, 0.3, 3.0, 4, 0.03, 0.1, 0.6),
        (2.5, 1.0, 3.0, 8, 0.03, -0.3, 0.5),
        (1.5, 1.0, 1.0, 8, 0.0, 0.5, 2.0),
        (5.0, 1.0, 1.0, 1, 0.0, 0.0, 1.0),
        (3.0, 1.0, 0.5, 2, 0.02, 0.5, -50.0),
        (3.0, 1.0, 0.5, 4, 0.0, 0.5, 50.0),
    ],
)
def test_two_hundred_answers_cost_the_budget(
    budget: float,
    spread: float,
    hardness: float,
    n_segments: int,
    end: float,
    drift: float,
    r_star: float,
) -> None:
    rng = random.Random(1)
    model, max_new = eight_letters(end), SIZE * n_segments
    params = params_of(r_star, max_new)
    n_decoded = n_kept = 0
    for i in range(200):
        reward = drifting(rng.gauss(0.0, hardness * spread), drift, spread)
        result = answer(
            model,
            reward,
            lambda c: adaptive(c, params, budget, spread),
            prompt_id=str(i),
            max_new_tokens=max_new,
        )
        n_decoded += result.n_decoded_tokens
        n_kept += result.n_kept_tokens
    assert n_decoded / n_kept == pytest.approx(budget, rel=0.05)


@pytest.mark.parametrize("r_star", [-math.inf, -5.0, 0.5, 50.0, math.inf])
@pytest.mark.parametrize("budget", [1.0, 1.5, 5.0])
def test_no_answer_stalls(budget: float, r_star: float) -> None:
    model = eight_letters(0.0)
    for i in range(10):
        result = answer(
            model,
            drifting(0.0, 0.5, 1.0),
            lambda c: adaptive(c, params_of(r_star, 30), budget, 1.0),
            prompt_id=f"{i}",
            max_new_tokens=30,
        )
        attempts = [s.n_attempts for s in result.segments]
        running = list(itertools.accumulate(attempts))
        assert sum(attempts) <= max(10, budget * 11)
        assert all(a <= max(k, budget * (k + 1)) for k, a in enumerate(running, start=1))
        assert max(attempts) <= 20


def run(r_star: float, max_attempts: int, seed: int) -> Result:
    params = params_of(r_star, 30, max_attempts)
    return answer(
        eight_letters(0.0),
        drifting(0.0, 0.5, 1.0),
        lambda c: adaptive(c, params, 5.0, 1.0),
        seed=seed,
        max_new_tokens=30,
    )


def test_max_attempts_binds_in_every_segment_the_last_included() -> None:
    for seed, r_star in itertools.product(range(5), (-50.0, 50.0)):
        assert max(s.n_attempts for s in run(r_star, 4, seed).segments) <= 4


def test_the_threshold_moves_by_two_spreads_a_budget_of_lead() -> None:
    """Accepted at once, the first segment leaves a lead of budget - 1 attempts."""
    first, second, *_ = run(-50.0, 20, 0).segments
    assert first.n_attempts == 1
    plain = Threshold(-50.0, 0.5, 30)
    assert first.threshold == pytest.approx(plain.at(3, 0.0))
    assert second.threshold == pytest.approx(plain.at(6, 0.0) + 2.0 * 1.0 * 4.0 / 5.0)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_a_shift_moves_every_schedule_as_a_whole(schedule: Schedule) -> None:
    plain = Threshold(1.0, 0.5, 12, schedule, quantiles=(0.2, 0.4), quantile_size=3)
    moved = ShiftedThreshold(
        1.0, 0.5, 12, schedule, quantiles=(0.2, 0.4), quantile_size=3, shift=0.7
    )
    for n in (3, 6, 12):
        at = plain.at(n - 3, -1.0, n_end=n)
        assert moved.at(n - 3, -1.0, n_end=n) == pytest.approx(at + 0.7)
        assert replace(moved, shift=0.0).at(n - 3, -1.0, n_end=n) == at
