"""Pictures of a report: curves are methods of one model, and every arm is told from the others."""

from __future__ import annotations

from typing import Any

import pytest

from stars_local.evals.pictures import bar_style, curves, line_style, with_interval


def arm(method: str, n_decoded: float, model: str | None = "m" * 12) -> dict[str, Any]:
    mean = {"value": n_decoded / 100, "low": 0.0, "high": 9.0, "n": 3}
    return {
        "method": method,
        "model": model,
        "n_decoded_tokens": n_decoded,
        "rewards": {"kind": mean},
    }


def test_arms_named_at_will_stand_on_the_curve_of_their_method() -> None:
    arms = {
        "best-of-10": arm("best-of-n", 900),
        "plain": arm("vanilla", 90),
        "best-of-4": arm("best-of-n", 360),
    }
    found = curves(arms, "kind")
    assert {name: [x for x, _ in points] for name, (_, points) in found.items()} == {
        "best-of-n": [360, 900],
        "vanilla": [90],
    }
    assert found["vanilla"][0] == 1, "a curve has the colour of its first arm"


def test_arms_of_another_model_are_another_curve() -> None:
    arms = {"small": arm("stars", 100, "aaa"), "large": arm("stars", 200, "bbb")}
    assert set(curves(arms, "kind")) == {"stars (aaa)", "stars (bbb)"}
    assert curves(arms, "nobody") == {}


def test_a_hundred_arms_look_different() -> None:
    lines = {(style["color"], style["marker"]) for style in map(line_style, range(100))}
    bars = {(style["color"], style["hatch"]) for style in map(bar_style, range(100))}
    assert len(lines) == len(bars) == 100


def test_a_middle_outside_of_its_interval_has_no_bar_there() -> None:
    """One prompt has an interval of no width, which may miss its mean by a rounding."""
    means = [{"value": 0.3, "low": 0.1, "high": 0.2}, {"value": 0.1 + 0.2, "low": 0.3, "high": 0.3}]
    found = with_interval(means)
    assert found["y"] == [0.3, 0.1 + 0.2]
    assert found["yerr"] == [[pytest.approx(0.2), pytest.approx(0, abs=1e-9)], [0.0, 0.0]]
