"""Sweeps name their arms so that the registry can read them."""

from __future__ import annotations

import pytest

from stars_local.core.errors import UsageError
from stars_local.core.methods.registry import parse_method
from stars_local.evals.sweep import FACTORS, default_factors, parse_factor, sweep_arms


def test_one_factor_at_a_time_changes_one_thing() -> None:
    first, *others = sweep_arms("stars:max_attempts=9,alpha=0.3", FACTORS)
    base = parse_method(first)[1]
    assert len(others) == sum(map(len, FACTORS.values()))
    for arm in others:
        name, values = parse_method(arm)
        assert name == "stars"
        assert len(set(values.items()) - set(base.items())) == 1
        assert values["max_attempts"] == "9"


def test_a_given_target_is_varied_by_one_beta() -> None:
    found = default_factors(2.0, 0.5)
    assert found["reward_threshold"] == ("1.5", "2.5")
    assert {name: found[name] for name in FACTORS} == FACTORS
    for arm in sweep_arms("stars", found):
        assert parse_method(arm)[0] == "stars"


@pytest.mark.parametrize("given", [(None, 1.0), (1.0, None), (1.0, 0.0)])
def test_a_calibrated_target_is_left(given: tuple[float | None, float | None]) -> None:
    assert default_factors(*given) == FACTORS


def test_a_grid_is_every_combination_once() -> None:
    factors = {"segment_size": ("8", "16"), "alpha": ("0.1", "0.5", "0.9")}
    arms = sweep_arms("stars", factors, grid=True)
    assert len(arms) == len(set(arms)) == 1 + 6


def test_the_base_is_not_drawn_twice() -> None:
    assert sweep_arms("stars:beta=1", {"beta": ("1", "2")}) == ("stars:beta=1", "stars:beta=2")


@pytest.mark.parametrize("text", ["", "alpha", "alpha=", "=1", "alpha=,"])
def test_a_bad_factor_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_factor(text)


def test_names_are_read_with_hyphens_too() -> None:
    assert parse_factor("segment-size=8, 16") == ("segment_size", ("8", "16"))
