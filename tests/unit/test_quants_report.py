"""What a comparison's report says of its figures."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.quants.report import recovered, shared_beginning, verdict
from stars_local.quants.rows import advice, front


def estimate(value: float, low: float, high: float | None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def row(ratio: float = 1.0, reward: float = 0.0, p_value: float = 0.5) -> dict[str, Any]:
    return {
        "ppl_ratio": estimate(ratio, ratio - 0.1, ratio + 0.1),
        "vanilla": {"difference": {"steering": estimate(reward, reward - 0.1, reward + 0.1)}},
        "two_sample": {"p_value": p_value, "mmd2": 0.004, "upper": 0.006},
    }


def test_no_difference_is_said_with_its_reasons() -> None:
    said = verdict(row(), "steering")
    assert said.startswith("these prompts can't tell it from the reference")
    assert (
        "perplexity x 1.0000 [0.9000, 1.1000]" in said
        and "texts p = 0.500 (MMD² 0.0040, below 0.0060)" in said
    )


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"ratio": 1.5}, "perplexity"), ({"reward": -1.0}, "vanilla"), ({"p_value": 0.01}, "texts")],
)
def test_a_difference_is_said_by_what_shows_it(changed: dict[str, float], word: str) -> None:
    said = verdict(row(**changed), "steering")
    assert said.startswith(f"differs: {word}") and ";" not in said


def test_the_reward_of_a_steered_arm_is_no_sign_of_a_difference() -> None:
    steered = {**row(), "stars": row(reward=5.0)["vanilla"]}
    assert verdict(steered, "steering") == verdict(row(), "steering")


def whole(name: str, n_bytes: int, reward: float, ratio: float = 1.0) -> dict[str, Any]:
    kl = {"mean": estimate(0.4, 0.3, 0.5)}
    return {**row(ratio, reward), "name": name, "size_bytes": n_bytes, "kl": kl}


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ((0.0, 0.0), "no difference that these prompts can show in steering reward: B"),
        ((0.0, -1.0), "run A:"),
        ((-1.0, 0.0), "run B:"),
        ((-1.0, -1.0), "every file loses"),
    ],
)
def test_the_advice_is_the_smallest_file_without_a_loss(
    rewards: tuple[float, float], said: str
) -> None:
    files = [whole(name, n, r) for name, n, r in zip("AB", (2, 1), rewards, strict=True)]
    assert advice([whole("reference", 9, 0.0), *files], "steering").startswith(said)


def test_the_advice_says_what_the_text_shows_of_the_file() -> None:
    rows = [whole("reference", 9, 0.0), whole("A", 1, 0.0, ratio=1.5)]
    found = advice(rows, "steering")
    assert "1.50 [1.40, 1.60] times the reference's perplexity" in found and "0.4" in found
    assert advice([*rows[:1], {"name": "A", "error": "gone"}], "steering").startswith("nothing")


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (["SmolLM2-135M.Q4_0", "SmolLM2-135M.Q4_K_M"], "SmolLM2-135M."),
        (["model-a", "model-b"], "model-"),
        (["a.Q4_0", "b.Q4_0"], ""),
        (["a.", "a.b"], ""),
        (["a.b", "a.b"], ""),
        (["a.b"], ""),
    ],
)
def test_what_all_names_begin_with_is_said_once(names: list[str], shared: str) -> None:
    assert shared_beginning(names) == shared


@given(st.lists(st.text("ab.-_", min_size=1, max_size=6), min_size=1, max_size=4))
def test_shortened_names_stay_apart_and_are_never_empty(names: list[str]) -> None:
    short = [name.removeprefix(shared_beginning(names)) for name in names]
    assert all(short) and len(set(short)) == len(set(names))


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
