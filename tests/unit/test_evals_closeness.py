"""Differences in spreads of answers to one prompt, and what counts as close to best-of-n."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.evals.closeness import MARGIN, closeness, in_spreads, is_close
from stars_local.evals.summary import summarise
from stars_local.evals.tables import closeness_table
from tests.unit.test_evals_summary import line

numbers = st.floats(-10, 10, allow_nan=False)


def rewards(values: Any) -> dict[str, float]:
    return {f"p{i}": float(value) for i, value in enumerate(values)}


@given(st.integers(0, 2**16), st.integers(4, 9), st.floats(0.01, 50), numbers)
def test_neither_the_scale_nor_what_a_prompt_adds_counts(
    seed: int, n: int, scale: float, added: float
) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, n))
    of_prompt = added * np.arange(n)
    plain = in_spreads(rewards(first), rewards(second))
    moved = in_spreads(rewards(scale * first + of_prompt), rewards(scale * second + of_prompt))
    assert moved.value == pytest.approx(plain.value, rel=1e-6)
    turned = in_spreads(rewards(second), rewards(first))
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-plain.value, -plain.high, -plain.low), nan_ok=True
    )


def test_it_finds_the_difference_that_answers_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.normal(0, 5, 4000)
    first, second = (prompts + mean + rng.normal(0, 0.7, 4000) for mean in (0.35, 0.0))
    found = in_spreads(rewards(first), rewards(second))
    assert found.value == pytest.approx(0.5, abs=0.06)
    assert found.low < 0.5 < found.high


def test_only_prompts_that_both_answered_count() -> None:
    drawn = np.random.default_rng(2).normal(size=(2, 20))
    first, second = map(rewards, drawn)
    assert in_spreads({**first, "more": 99.0}, second) == in_spreads(first, second)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_there_is_none_without_a_spread(n: int) -> None:
    level = [0.1 * (i + 1) for i in range(n)]
    found = in_spreads(rewards(level), rewards([each + 0.3 for each in level]))
    assert math.isnan(found.value)


def test_the_whole_interval_decides() -> None:
    assert MARGIN == 0.1
    assert is_close(-0.05, 0.3) is True
    assert is_close(-0.9, -0.2) is False
    assert is_close(-0.2, 0.0) is None


def answers(arm: str, cost: int, lead: float, prompts: range = range(60)) -> list[dict[str, Any]]:
    """Lines of an arm: rewards that scatter by 0.3 around what the prompt and the arm add."""
    rng = np.random.default_rng(sum(map(ord, arm)))
    drawn = [lead + i + float(rng.normal(0, 0.3)) for i in prompts]
    return [
        line(arm, 0, f"p{i}", rewards={"j": reward, "refusal": 0.0}, n_decoded_tokens=cost)
        for i, reward in zip(prompts, drawn, strict=True)
    ]


def test_a_summary_tells_who_comes_close_by_judges_that_rank() -> None:
    lines = (
        answers("best-of-n", 1000, 1.0) + answers("stars", 300, 1.3) + answers("vanilla", 100, 0)
    )
    found = summarise([*lines, *answers("dear", 2000, 3.0)])["closeness"]
    assert {(each["first"], each["close"]) for each in found} == {
        ("stars", True),
        ("vanilla", False),
    }
    assert {(each["second"], each["judge"]) for each in found} == {("best-of-n", "j")}
    assert {each["first"]: each["tokens"] for each in found} == {"stars": 0.3, "vanilla": 0.1}
    rows = {row[0]: row[3:] for row in closeness_table({"closeness": found})}
    assert rows["stars to best-of-n"][0] == "30 %"
    assert [row[-1] for row in rows.values()] == ["close", "yes", "no"]


def test_other_arms_and_other_prompts_have_no_say() -> None:
    two = {arm: answers(arm, cost, 1.0) for arm, cost in (("best-of-n", 1000), ("stars", 300))}
    (alone,) = closeness(two, ["j"])
    strangers = {"vanilla": answers("vanilla", 9, 5.0, range(100, 105))}
    assert closeness({**two, **strangers}, ["j"]) == [alone]
    late = {**two, "best-of-n": two["best-of-n"] + answers("best-of-n", 1, 9.0, range(60, 99))}
    assert closeness(late, ["j"]) == [alone]
