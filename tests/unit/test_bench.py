"""Benchmark bookkeeping: turns, ratios, JSON."""

from __future__ import annotations

import json
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stars_local.bench.figures import (
    Figure,
    interleaved,
    interval,
    machine,
    ratio,
    summary,
    versions,
)
from stars_local.bench.sources import long_text
from stars_local.core.seeds import SeedSource
from stars_local.core.widths import AutoWidth

positive = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=9)


def test_contenders_take_turns_and_the_warmup_is_not_counted() -> None:
    order: list[str] = []
    turns: list[int] = []

    def contender(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = interleaved(
        {"a": lambda: contender("a"), "b": lambda: contender("b")},
        3,
        warmup=2,
        on_turn=lambda: turns.append(len(order)),
    )
    assert turns == [2, 4, 6, 8, 10]
    assert order == ["a", "b"] * 5
    assert found == {"a": [5.0, 7.0, 9.0], "b": [6.0, 8.0, 10.0]}


@given(positive)
def test_a_figure_lies_between_its_extremes(values: list[float]) -> None:
    figure = summary("f", "s", values)
    assert figure.min <= figure.value <= figure.max
    assert figure.runs == len(values)


def test_ratios_are_of_neighbours() -> None:
    assert ratio("r", "b", [1.0, 4.0, 9.0], [1.0, 2.0, 3.0]).value == 2.0
    with pytest.raises(ValueError, match="zip"):
        ratio("r", "b", [1.0], [1.0, 2.0])


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=20))
def test_an_interval_holds_the_geometric_mean_and_turns_over_with_the_ratio(
    values: list[float],
) -> None:
    ones = [1.0] * len(values)
    low, high = (figure.value for figure in interval("r", "b", values, ones))
    mean = math.prod(values) ** (1 / len(values))
    assert low <= mean * (1 + 1e-9)
    assert mean <= high * (1 + 1e-9)
    over = [figure.value for figure in interval("r", "b", ones, values)]
    assert over == pytest.approx([1 / high, 1 / low])


def test_an_interval_is_students() -> None:
    values = [1.0, math.e, math.e**2]  # logs 0, 1, 2: mean 1, deviation 1
    low, high = (figure.value for figure in interval("r", "b", values, [1.0] * 3))
    assert math.log(high) - 1 == pytest.approx(4.303 / math.sqrt(3))
    assert 1 - math.log(low) == pytest.approx(4.303 / math.sqrt(3))
    assert interval("r", "b", [2.0], [1.0]) == []


def test_json_never_holds_what_json_has_no_word_for() -> None:
    figure = Figure("f", math.nan, "s", "", -math.inf, 1.0, 2)
    text = json.dumps(figure.to_json(), allow_nan=False)
    assert json.loads(text)["value"] is None
    assert json.loads(text)["runs"] == 2


def test_the_machine_and_the_versions_are_named() -> None:
    assert machine()["processor"]
    assert "stars-local" in versions()


def test_long_texts_are_as_long_as_asked() -> None:
    assert len(long_text(5000)) >= 5000


@given(st.floats(0.02, 0.98), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_auto_width_is_the_best_fixed_width_once_it_knows_the_rate(rate: float, seed: int) -> None:
    cost = {1: 1.0, 2: 1.1 + seed / 10, 4: 1.5 + seed / 8, 8: 2.2 + seed / 5, 16: 4.0}
    policy = AutoWidth(cost)
    coin = SeedSource(seed, "coin")
    expected = {w: c / (1 - (1 - rate) ** w) for w, c in cost.items()}
    spent = []
    for n in range(3000):
        policy.observe(accepted=coin.uniform(0, n) < rate)
        spent.append(expected[policy.next_width()])
    assert statistics.fmean(spent[500:]) <= 1.05 * min(expected.values())
