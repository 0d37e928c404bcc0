"""The spread of answers to one prompt, and what counts as close to best-of-n."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.evals.closeness import MARGIN, closeness, is_close, spread_within
from stars_local.evals.summary import summarise
from tests.unit.test_evals_summary import line

numbers = st.floats(-10, 10, allow_nan=False)


def arms_of(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[dict[str, float]]:
    return [{f"p{i}": float(value) for i, value in enumerate(arm)} for arm in values]


@given(st.integers(0, 2**16), st.integers(2, 5), st.integers(2, 9), numbers, numbers)
def test_what_a_prompt_and_an_arm_add_is_no_spread(
    seed: int, n_arms: int, n_prompts: int, of_arm: float, of_prompt: float
) -> None:
    draw = np.random.default_rng(seed).normal(size=(n_arms, n_prompts))
    shifted = draw.copy()
    shifted[0] += of_arm
    shifted[:, 0] += of_prompt
    assert spread_within(arms_of(shifted)) == pytest.approx(spread_within(arms_of(draw)), abs=1e-9)
    assert spread_within(arms_of(3 * draw)) == pytest.approx(3 * spread_within(arms_of(draw)))


def test_it_finds_the_spread_that_answers_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    prompts, arms = rng.normal(0, 5, 4000), np.array([[0.0], [1.0], [4.0]])
    drawn = prompts + arms + rng.normal(0, 0.7, (3, 4000))
    assert spread_within(arms_of(drawn)) == pytest.approx(0.7, abs=0.02)


def test_only_prompts_that_every_arm_answered_count() -> None:
    first, second = arms_of(np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 1.0]]))
    both = spread_within([first, second])
    assert spread_within([{**first, "more": 99.0}, second]) == both


@pytest.mark.parametrize("arms", [[], [{"p": 1.0, "q": 2.0}], [{"p": 1.0}, {"p": 2.0}]])
def test_there_is_none_without_two_arms_and_two_prompts(arms: list[dict[str, float]]) -> None:
    assert math.isnan(spread_within(arms))


def test_the_whole_interval_decides() -> None:
    assert is_close(-0.05, 0.3, 0.1) is True
    assert is_close(-0.9, -0.2, 0.1) is False
    assert is_close(-0.2, 0.0, 0.1) is None


def pair(first: str, second: str, value: float, judge: str = "j") -> dict[str, Any]:
    difference = {"value": value, "low": value - 0.1, "high": value + 0.3, "n": 9}
    return {"first": first, "second": second, "judge": judge, "difference": difference}


ARMS = {
    "plain": {"method": "vanilla", "n_decoded_tokens": 100.0},
    "ten": {"method": "best-of-n", "n_decoded_tokens": 1000.0},
    "stars": {"method": "stars", "n_decoded_tokens": 250.0},
    "dear": {"method": "stars", "n_decoded_tokens": 2000.0},
}


def test_best_of_n_is_the_yardstick_on_either_side_of_a_pair() -> None:
    pairs = [pair("stars", "ten", -1.0), pair("ten", "plain", 1.0), pair("stars", "plain", 0.0)]
    stars, plain = closeness(ARMS, pairs, {"j": 2.0})
    assert (stars["first"], stars["second"], stars["tokens"]) == ("stars", "ten", 0.25)
    assert stars["difference"] == {"value": -0.5, "low": -0.55, "high": -0.35, "n": 9}
    assert plain["first"] == "plain"
    assert plain["difference"]["value"] == -0.5
    assert (plain["difference"]["low"], plain["difference"]["high"]) == (-0.65, -0.45)
    assert stars["close"] is plain["close"] is False


def test_dearer_arms_and_judges_that_rank_nothing_take_no_part() -> None:
    spreads = {"j": 1.0, "refusal": 1.0, "flat": 0.0, "none": math.nan}
    pairs = [pair("dear", "ten", 1.0)]
    pairs += [pair("stars", "ten", 1.0, judge) for judge in ("refusal", "flat", "none", "unknown")]
    assert closeness(ARMS, pairs, spreads) == []


def test_a_summary_tells_who_comes_close() -> None:
    rng, lines = np.random.default_rng(1), []
    for arm, cost, lead in (("best-of-n", 1000, 1.0), ("stars", 300, 1.2), ("vanilla", 100, 0.0)):
        for i in range(60):
            reward = lead + i + float(rng.normal(0, 0.3))
            lines.append(line(arm, 0, f"p{i}", rewards={"j": reward}, n_decoded_tokens=cost))
    summary = summarise(lines)
    assert summary["spreads"]["j"] == pytest.approx(0.3, abs=0.05)
    said = {each["first"]: each["close"] for each in summary["closeness"]}
    assert said == {"stars": True, "vanilla": False}
    assert MARGIN == 0.1
