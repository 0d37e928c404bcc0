"""Which parameters each method looks at: what stands in `reads` is neither more nor less."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from stars_local.config import OWNED, configure, idle_flags, is_idle
from stars_local.core.boundaries import BoundaryKind
from stars_local.core.doubles import TableReward
from stars_local.core.errors import UsageError
from stars_local.core.methods import Force
from stars_local.core.methods.blockwise import KSchedule
from stars_local.core.methods.registry import METHODS, MethodParams, build, parse_method
from stars_local.core.records import Prompt
from stars_local.core.thresholds import Schedule, ThresholdFrom
from tests.support.laws import answer, letters_model, letters_reward

BASE = MethodParams(
    segment_size=4,
    max_attempts=6,
    alpha=0.6,
    beta=0.2,
    reward_threshold=1.2,
    max_new_tokens=14,
    quantiles=(0.1, 0.5, 0.9, 1.3),
    n=5,
    k=3,
    spread=0.5,
    price=0.02,
    entropy_threshold=1.15,
    max_segment_tokens=6,
    min_tokens=2,
)
OTHER: dict[str, Any] = {
    "segment_size": 3,
    "max_attempts": 1,
    "alpha": 0.1,
    "beta": 1.0,
    "reward_threshold": 0.2,
    "max_new_tokens": 9,
    "schedule": Schedule.FIXED,
    "force": Force.LAST,
    "ended_at_r_star": True,
    "tau_at_start": True,
    "threshold_from": ThresholdFrom.PROMPT,
    "boundary": BoundaryKind.ENTROPY,
    "min_tokens": 3,
    "max_segment_tokens": 3,
    "entropy_threshold": 0.9,
    "quantiles": (2.0, 2.0, 2.0, 2.0),
    "quantile_size": 1,
    "n": 2,
    "k": 1,
    "k_schedule": KSchedule.GROW,
    "price": 0.5,
    "spread": 5.0,
    "spreads": (0.1, 5.0),
    "budget": 6.0,
}
# the settings beside it under which a parameter shows
UNDER: dict[str, dict[str, Any]] = {
    "quantiles": {"schedule": Schedule.QUANTILE},
    "quantile_size": {"schedule": Schedule.QUANTILE, "spreads": (0.1, 5.0, 0.1)},
    "force": {"max_attempts": 2, "reward_threshold": 3.0},
    "min_tokens": {"boundary": BoundaryKind.ENTROPY},
    "entropy_threshold": {"boundary": BoundaryKind.ENTROPY},
    "threshold_from": {"schedule": Schedule.FIXED},
    "ended_at_r_star": {"alpha": 0.1},
}
# a calibration is filed under a segment size, also that of cards, whose segments have their own
ELSEWHERE = {("cards", "segment_size")}
PAIRS = [(name, field) for name in METHODS for field in OTHER]


def outcomes(name: str, params: MethodParams) -> list[Any]:
    """Texts and fates of some answers under one set of parameters."""
    method = build(name, params)
    found = []
    for seed in range(40):
        result = answer(
            letters_model(),
            prompted_reward(),
            method,
            seed=seed,
            max_new_tokens=params.max_new_tokens,
        )
        found.append((result.text, [(s.n_attempts, s.n_tokens) for s in result.segments]))
    return found


def prompted_reward() -> TableReward:
    """The letters' reward from a starting point that is not zero."""
    table, prompt = letters_reward(), Prompt("p", text="x")
    return TableReward(lambda text: table.score([(prompt, text)]).rewards[0].value - 0.8)


def test_every_parameter_is_tried() -> None:
    assert set(OTHER) == {field.name for field in dataclasses.fields(MethodParams)}


@pytest.mark.parametrize(("name", "field"), PAIRS)
def test_a_method_reads_what_it_says_and_no_more(name: str, field: str) -> None:
    base = replace(BASE, **UNDER.get(field, {}))
    own = BoundaryKind.FIXED if METHODS[name].boundary is BoundaryKind.ENTROPY else OTHER[field]
    other = own if field == "boundary" else OTHER[field]
    changed = outcomes(name, replace(base, **{field: other})) != outcomes(name, base)
    assert changed == (field in METHODS[name].reads and (name, field) not in ELSEWHERE)


@pytest.mark.parametrize(("name", "field"), PAIRS)
def test_a_parameter_that_is_not_read_is_refused_behind_the_name(name: str, field: str) -> None:
    text = f"{name}:{field}=1"
    if field in METHODS[name].reads:
        assert parse_method(text) == (name, {field: "1"})
    else:
        with pytest.raises(UsageError, match=f"{name} does not look at {field}"):
            parse_method(text)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("option", OWNED)
def test_an_option_of_another_method_is_refused(name: str, option: str) -> None:
    flags = {"method": name, option: "3"}
    if option in METHODS[name].reads:
        assert getattr(configure(flags, {}).settings, option) == 3
        return
    with pytest.raises(UsageError, match=f"--{option} belongs to --method .*, not to {name}"):
        configure(flags, {})


@pytest.mark.parametrize(
    ("method", "idle"),
    [
        ("vanilla", ["--max-attempts", "--beta", "--schedule", "--force", "--gate"]),
        ("best-of-n:n=2", ["--max-attempts", "--beta", "--schedule", "--force"]),
        ("stopping", ["--beta", "--schedule", "--force"]),
        ("stars", []),
    ],
)
def test_flags_without_effect_are_named(method: str, idle: list[str]) -> None:
    flags = {
        "method": method,
        "beta": "1",
        "schedule": "fixed",
        "force": "last",
        "max_attempts": "3",
        "segment_size": "8",
        "gate": ["a>=1"],
        "top_k": "3",
    }
    assert sorted(idle_flags(configure(flags, {}))) == sorted(idle)
    assert all(is_idle(flag[2:].replace("-", "_"), method) for flag in idle)
