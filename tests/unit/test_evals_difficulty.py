"""Thirds of the prompts by what is known of them, and what each arm gains there."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.evals.difficulty import THIRDS, by_difficulty

N = 900


def line(
    prompt: int,
    method: str,
    judged: float | None,
    *,
    initial: float | None = None,
    steering: float = 0.0,
    n_attempts: int = 1,
    drawn: tuple[float, ...] = (),
) -> dict[str, Any]:
    outcome = "forced" if n_attempts > 5 else "accepted"
    rewards = {"steering": steering} | ({} if judged is None else {"judge": judged})
    return {
        "prompt_id": f"p{prompt}",
        "method": method,
        "initial_reward": initial,
        "rewards": rewards,
        "segments": [{"n_attempts": n_attempts, "outcome": outcome}],
        "attempts": [{"index": i, "reward": reward} for i, reward in enumerate(drawn)],
        "n_decoded_tokens": 10 * n_attempts,
        "elapsed_s": float(n_attempts),
    }


def gains(found: dict[str, Any] | None, arm: str) -> list[float]:
    assert found is not None
    return [found["arms"][arm][third]["gain"]["value"] for third in THIRDS]


@given(worth=st.lists(st.integers(-5, 5), min_size=3, max_size=20))  # whole: means are exact
def test_each_prompt_is_in_one_third_and_hard_ones_begin_low(worth: list[int]) -> None:
    plain = [line(i, "vanilla", 0.0) for i in range(len(worth))]
    # the judge's value is what prompts are sorted by: so the gain tells which stand in a third
    steered = [line(i, "stars", value, initial=value) for i, value in enumerate(worth)]
    found = by_difficulty({"a": plain, "b": steered})
    assert found is not None
    assert found["confounded"] is False
    thirds = [found["arms"]["b"][third] for third in THIRDS]
    assert sum(third["n"] for third in thirds) == len(worth)
    assert gains(found, "b") == sorted(gains(found, "b"))
    total = sum(third["n"] * third["gain"]["value"] for third in thirds)
    assert total == pytest.approx(sum(worth), abs=1e-9)


def test_alike_prompts_gain_nothing_in_any_third() -> None:
    """Plain answers of other seeds are no better where the first ones were unlucky."""
    dice = random.Random(3)

    def answer(i: int, method: str, **more: Any) -> dict[str, Any]:
        value = dice.gauss(0, 1)  # the judge likes what the steering model likes
        return line(i, method, value, steering=value, **more)

    plain = [answer(i, "vanilla") for i in range(N)]
    again = [answer(i, "vanilla") for i in range(N)]
    scored = [answer(i, "stars", initial=dice.gauss(0, 1)) for i in range(N)]
    drawn = [answer(i, "best-of-n", drawn=tuple(dice.gauss(0, 1) for _ in "abc")) for i in range(N)]
    for each, own in zip(drawn, plain, strict=True):  # the first draw is the plain answer itself
        each["attempts"][0]["reward"] = own["rewards"]["steering"]
    for other in (scored, drawn):
        found = by_difficulty({"plain": plain, "again": again, "other": other})
        assert found is not None
        assert found["confounded"] is False
        assert gains(found, "again") == pytest.approx([0, 0, 0], abs=0.25)
    found = by_difficulty({"plain": plain, "again": again})
    assert found is not None
    assert found["confounded"] is True
    assert "chance" in found["sorted_by"]
    assert gains(found, "again")[0] > 0.5, "so what is confounded must be said to be"


def test_what_a_third_costs_is_counted() -> None:
    plain = [line(i, "vanilla", 0.0, steering=float(i)) for i in range(6)]
    attempts = [9, 7, 4, 2, 1, 1]
    steered = [line(i, "stars", 1.0, initial=float(i), n_attempts=attempts[i]) for i in range(6)]
    found = by_difficulty({"plain": plain, "stars": steered})
    assert found is not None
    hard, middle, easy = (found["arms"]["stars"][third] for third in THIRDS)
    assert (hard["attempts"], middle["attempts"], easy["attempts"]) == (8.0, 3.0, 1.0)
    assert (hard["forced_share"], middle["forced_share"]) == (1.0, 0.0)
    assert (hard["n_decoded_tokens"], hard["elapsed_s_p50"]) == (80.0, 8.0)


def test_another_steering_model_does_not_mix_into_the_order() -> None:
    plain = [line(i, "vanilla", float(i)) for i in range(6)]
    mine = [line(i, "stars", 0.0, initial=float(i)) for i in range(6)]
    others = [line(i, "stars", 0.0, initial=-float(i)) for i in range(6)]
    both = by_difficulty({"plain": plain, "a": mine, "b": others})
    alone = by_difficulty({"plain": plain, "a": mine})
    assert gains(both, "a") == gains(alone, "a") == [-0.5, -2.5, -4.5]


def test_without_plain_answers_nothing_is_easy_or_hard() -> None:
    assert by_difficulty({"stars": [line(i, "stars", 0.0, initial=0.0) for i in range(9)]}) is None
    assert by_difficulty({"vanilla": [line(0, "vanilla", 0.0)]}) is None


def test_without_a_judge_no_gain_is_claimed() -> None:
    plain = [line(i, "vanilla", None) for i in range(3)]
    judged = [line(i, "stars", 1.0, initial=0.0) for i in range(3)]
    found = by_difficulty({"vanilla": plain, "stars": judged})
    assert gains(found, "vanilla") == gains(found, "stars") == [None] * 3


def test_arms_that_another_judge_scored_claim_no_gain() -> None:
    plain = [line(i, "vanilla", 0.0) for i in range(3)]
    other = [line(i, "stars", None, initial=0.0) for i in range(3)]
    found = by_difficulty({"vanilla": plain, "stars": other})
    assert gains(found, "stars") == [None] * 3
    assert gains(found, "vanilla") == [0.0] * 3
