"""What a run is said to cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.evals.estimate import (
    Basis,
    Rate,
    estimate_arm,
    rate_of_lines,
    rate_of_steps,
    short_count,
    short_time,
    table,
)

PARAMS: dict[str, Any] = {
    "method": "stars",
    "max_new_tokens": 100,
    "max_attempts": 20,
    "n": 10,
    "k": 4,
    "budget": None,
}


@pytest.mark.parametrize(
    ("changes", "attempts", "n_tokens", "basis"),
    [
        ({"method": "vanilla"}, 3.0, 500, Basis.FIXED),
        ({"method": "best-of-n:n=10"}, 3.0, 5000, Basis.FIXED),
        ({"method": "blockwise"}, None, 2000, Basis.FIXED),
        ({"method": "adaptive", "budget": 2.5}, None, 1250, Basis.BUDGET),
        ({}, 3.0, 1500, Basis.CALIBRATED),
        ({"max_attempts": 2}, 3.0, 1000, Basis.CALIBRATED),
        ({}, None, 10000, Basis.BOUND),
        ({"method": "rejection"}, 3.0, 10000, Basis.BOUND),
    ],
)
def test_tokens_follow_the_parameters(
    changes: dict[str, Any], attempts: float | None, n_tokens: int, basis: Basis
) -> None:
    found = estimate_arm("a", {**PARAMS, **changes}, 5, attempts)
    assert (found.n_tokens, found.basis) == (n_tokens, basis)


def line(arm: str, cohort: int, tokens: int, seconds: float) -> dict[str, Any]:
    return {"arm": arm, "cohort": cohort, "n_decoded_tokens": tokens, "elapsed_s": seconds}


def test_answers_of_a_cohort_are_drawn_at_the_same_time() -> None:
    lines = [line("a", 0, 30, 1.0), line("a", 0, 70, 2.0), line("b", 0, 100, 3.0)]
    found = rate_of_lines(lines)
    assert found is not None
    assert found.tokens_per_s == pytest.approx(200 / 5)


def test_no_answer_gives_no_rate() -> None:
    assert rate_of_lines([]) is None
    assert rate_of_lines([line("a", 0, 0, 0.0)]) is None


@pytest.mark.parametrize(("cohort", "rate"), [(1, 10.0), (5, 20.0), (8, 40.0), (80, 40.0)])
def test_steps_are_taken_no_wider_than_the_cohort(cohort: int, rate: float) -> None:
    assert rate_of_steps({1: 0.1, 4: 0.2, 8: 0.2}, cohort).tokens_per_s == pytest.approx(rate)


@given(
    names=st.lists(st.text(st.characters(categories=["L", "N"]), max_size=60), min_size=1),
    n=st.integers(0, 100_000),
    rate=st.floats(0.1, 1e5) | st.none(),
)
def test_the_table_fits_a_terminal(names: list[str], n: int, rate: float | None) -> None:
    arms = [estimate_arm(name, PARAMS, n, None) for name in names]
    shown = table(arms, None if rate is None else Rate(rate, "measured on 1000 cohorts")).split(
        "\n"
    )
    assert max(map(len, shown)) <= 80
    assert len(shown) == 2 + len(arms) + (len(arms) > 1)
    assert all(row.rstrip().endswith("at most") for row in shown[1 : 1 + len(arms)])


def test_numbers_are_short_and_right() -> None:
    assert [short_count(n) for n in (0, 999, 1000, 999_949, 4_560_000)] == [
        "0",
        "999",
        "1.0k",
        "999.9k",
        "4.6M",
    ]
    assert [short_time(s) for s in (0.2, 89, 120, 9000)] == ["0 s", "89 s", "2 min", "2.5 h"]
