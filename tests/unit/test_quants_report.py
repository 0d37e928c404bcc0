"""What a comparison's report says of its figures."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.quants.report import recovered, verdict
from stars_local.quants.rows import front


def estimate(value: float, low: float, high: float | None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def row(ratio: float = 1.0, reward: float = 0.0, p_value: float = 0.5) -> dict[str, Any]:
    return {
        "ppl_ratio": estimate(ratio, ratio - 0.1, ratio + 0.1),
        "vanilla": {"difference": {"steering": estimate(reward, reward - 0.1, reward + 0.1)}},
        "two_sample": {"p_value": p_value},
    }


def test_no_difference_is_said_with_its_reasons() -> None:
    said = verdict(row(), "steering")
    assert said.startswith("these prompts can't tell it from the reference")
    assert "perplexity x 1.00 [0.90, 1.10]" in said and "texts p = 0.500" in said


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"ratio": 1.5}, "perplexity"), ({"reward": -1.0}, "vanilla"), ({"p_value": 0.01}, "texts")],
)
def test_a_difference_is_said_by_what_shows_it(changed: dict[str, float], word: str) -> None:
    said = verdict(row(**changed), "steering")
    assert said.startswith(f"differs: {word}") and ";" not in said


def test_an_end_without_a_bound_is_called_unbounded() -> None:
    found = {"share": estimate(0.5, 0.1, None), "unbounded": True}
    assert recovered(found) == "50 % [10, unbounded]"
    bounded = {"share": estimate(0.5, 0.1, 0.9), "unbounded": False}
    assert recovered(bounded) == "50.0 % [10.0, 90.0]"
    assert "nothing certain" in recovered({"share": None, "gained": estimate(1, 0, 2)})


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(-9, 9)), min_size=1))
def test_the_front_holds_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    kept = [(x, y) for x, y, _, _ in front([(*point, "", "") for point in points])]
    for cost, reward in points:
        assert any(x <= cost and y >= reward for x, y in kept)
    for (x, y), (cost, reward) in pairwise(kept):
        assert x < cost and y < reward
