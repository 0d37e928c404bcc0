"""Sweeps name their arms so that the registry can read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.errors import UsageError
from stars_local.core.methods.registry import METHODS, parse_method
from stars_local.evals.sweep import (
    FACTORS,
    Base,
    default_factors,
    parse_factor,
    parse_factors,
    sweep_arms,
)

CALIBRATED = Base("stars", 2.0, 0.2, 1.5, has_quantiles=True)


def test_one_factor_at_a_time_changes_one_thing() -> None:
    factors = default_factors(CALIBRATED)
    first, *others = sweep_arms("stars:max_attempts=9,alpha=0.3", factors)
    base = parse_method(first)[1]
    assert len(others) == sum(map(len, factors.values()))
    for arm in others:
        name, values = parse_method(arm)
        assert name == "stars"
        assert len(set(values.items()) - set(base.items())) == 1
        assert values["max_attempts"] == "9"


def test_a_calibrated_target_is_varied_by_half_a_spread_and_beta_by_itself() -> None:
    found = default_factors(CALIBRATED)
    assert list(found) == ["segment_size", "schedule", "alpha", "reward_threshold", "beta"]
    assert found["reward_threshold"] == ("1.25", "2.0", "2.75")
    assert found["beta"] == ("0.1", "0.2", "0.4")
    assert found["schedule"] == ("ramp", "fixed", "decay", "quantile")


def test_a_target_by_hand_is_varied_by_half_a_beta_and_has_no_quantiles() -> None:
    found = default_factors(Base("stars", 2.0, 0.5))
    assert found["reward_threshold"] == ("1.75", "2.0", "2.25")
    assert found["schedule"] == ("ramp", "fixed", "decay")


@pytest.mark.parametrize("base", [Base("stars"), Base("stars", float("-inf"), 0.0, 1.0)])
def test_what_has_no_neighbours_is_left(base: Base) -> None:
    assert not {"reward_threshold", "beta"} & set(default_factors(base))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e3), st.floats(1e-6, 1e3))
def test_the_base_is_known_again_among_its_neighbours(
    target: float, beta: float, spread: float
) -> None:
    base = Base("stars", target, beta, spread)
    factors = {key: default_factors(base)[key] for key in ("reward_threshold", "beta")}
    arms = sweep_arms("stars", factors, known={"reward_threshold": target, "beta": beta})
    assert f"stars:reward_threshold={target!r}" not in arms
    assert f"stars:beta={beta!r}" not in arms


@pytest.mark.parametrize("name", METHODS)
def test_every_method_varies_what_it_looks_at(name: str) -> None:
    if name == "vanilla":
        with pytest.raises(UsageError, match="give --vary"):
            default_factors(Base(name))
        return
    found = default_factors(Base(name, 2.0, 0.2, 1.5, has_quantiles=True))
    assert set(found) <= METHODS[name].reads
    assert ("segment_size" in found) == (name in ("stars", "blockwise", "stopping", "adaptive"))
    assert ("n" in found, "k" in found) == (name == "best-of-n", name == "blockwise")
    for arm in sweep_arms(name, found):
        assert parse_method(arm)[0] == name


def test_a_grid_is_every_combination_once() -> None:
    factors = {"segment_size": ("8", "16"), "alpha": ("0.1", "0.5", "0.9")}
    arms = sweep_arms("stars", factors, grid=True)
    assert len(arms) == len(set(arms)) == 1 + 6
    known = {"segment_size": 16, "alpha": 0.5}
    fewer = sweep_arms("stars", factors, grid=True, known=known)
    assert set(arms) - set(fewer) == {"stars:segment_size=16,alpha=0.5"}


def test_the_base_is_not_drawn_twice() -> None:
    assert sweep_arms("stars:beta=1", {"beta": ("1", "2")}) == ("stars:beta=1", "stars:beta=2")
    known = {"segment_size": 32, "schedule": "ramp", "ended_at_r_star": False, "alpha": 0.5}
    factors = {
        "segment_size": ("32", "8"),
        "schedule": ("ramp", "decay"),
        "ended_at_r_star": ("false", "true"),
        "alpha": ("0.50", "0.6"),
    }
    assert sweep_arms("stars", factors, known=known) == (
        "stars",
        "stars:segment_size=8",
        "stars:schedule=decay",
        "stars:ended_at_r_star=true",
        "stars:alpha=0.6",
    )


@pytest.mark.parametrize("text", ["", "alpha", "alpha=", "=1", "alpha=,"])
def test_a_bad_factor_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_factor(text)


def test_names_are_read_with_hyphens_too() -> None:
    assert parse_factor("segment-size=8, 16") == ("segment_size", ("8", "16"))


def test_factors_are_parameters_of_some_method() -> None:
    assert set(FACTORS) <= {name for spec in METHODS.values() for name in spec.reads}


def test_a_factor_given_again_has_further_values() -> None:
    assert parse_factors(["alpha=0.5", "k=2", "alpha=0.9"]) == {
        "alpha": ("0.5", "0.9"),
        "k": ("2",),
    }
