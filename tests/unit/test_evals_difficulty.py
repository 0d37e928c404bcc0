"""Thirds of the prompts by what their plain answers are worth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.evals.difficulty import THIRDS, by_difficulty


def line(prompt: int, method: str, steering: float, judged: float, attempts: int) -> dict[str, Any]:
    segments = [{"n_attempts": attempts, "outcome": "forced" if attempts > 5 else "accepted"}]
    return {
        "prompt_id": f"p{prompt}",
        "method": method,
        "rewards": {"steering": steering, "judge": judged},
        "segments": segments,
        "n_decoded_tokens": 10 * attempts,
        "elapsed_s": float(attempts),
    }


@given(worth=st.lists(st.floats(-5, 5), min_size=3, max_size=20))
def test_each_prompt_is_in_one_third_and_hard_ones_score_low(worth: list[float]) -> None:
    plain = [line(i, "vanilla", value, 0.0, 1) for i, value in enumerate(worth)]
    # the judge's value is the prompt's own reward: so the gain tells which prompts stand in a third
    steered = [line(i, "stars", 9.0, value, 2) for i, value in enumerate(worth)]
    found = by_difficulty({"a": plain, "b": steered})
    assert found is not None
    thirds = [found["b"][third] for third in THIRDS]
    assert sum(third["n"] for third in thirds) == len(worth)
    gains = [third["gain"]["value"] for third in thirds]
    assert gains == sorted(gains)
    total = sum(third["n"] * third["gain"]["value"] for third in thirds)
    assert total == pytest.approx(sum(worth), abs=1e-9)


def test_what_a_third_costs_is_counted() -> None:
    plain = [line(i, "vanilla", float(i), 0.0, 1) for i in range(6)]
    steered = [line(i, "stars", 9.0, 1.0, [9, 7, 4, 2, 1, 1][i]) for i in range(6)]
    found = by_difficulty({"plain": plain, "stars": steered})
    assert found is not None
    hard, middle, easy = (found["stars"][third] for third in THIRDS)
    assert (hard["attempts"], middle["attempts"], easy["attempts"]) == (8.0, 3.0, 1.0)
    assert (hard["forced_share"], middle["forced_share"]) == (1.0, 0.0)
    assert (hard["n_decoded_tokens"], hard["elapsed_s_p50"]) == (80.0, 8.0)


def test_without_plain_answers_nothing_is_easy_or_hard() -> None:
    assert by_difficulty({"stars": [line(i, "stars", 0.0, 0.0, 1) for i in range(9)]}) is None
    assert by_difficulty({"vanilla": [line(0, "vanilla", 0.0, 0.0, 1)]}) is None


def test_without_a_judge_no_gain_is_claimed() -> None:
    plain = [line(i, "vanilla", float(i), 0.0, 1) for i in range(3)]
    for each in plain:
        del each["rewards"]["judge"]
    found = by_difficulty({"vanilla": plain})
    assert found is not None
    assert found["vanilla"]["hard"]["gain"]["value"] is None
