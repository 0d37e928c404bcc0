"""Calibration: the solved threshold costs what was wanted, and files belong to their models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stars_local.calibration.calibrator import Calibrator, Plan
from stars_local.calibration.law import AttemptsLaw, solve_threshold
from stars_local.calibration.partial import partial_agreement
from stars_local.calibration.records import (
    Calibration,
    CalibrationKey,
    Measured,
    find_calibration,
    read_calibration,
    require_key,
    write_calibration,
)
from stars_local.core.doubles import TableReward
from stars_local.core.errors import CalibrationError
from stars_local.core.methods.probing import Position
from stars_local.core.records import Prompt, Reward, Scores
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Threshold
from tests.support.laws import letters_model


class PromptReward(TableReward):
    """Letters have a worth, and every prompt a level of its own."""

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Scores:
        rewards = tuple(
            Reward(
                sum({"a": 1.0, "c": -1.0}.get(char, 0.0) for char in text) / (len(text) + 2)
                + SeedSource(0, prompt.id).uniform(0, 0) / 2
            )
            for prompt, text in items
        )
        return Scores(rewards, 1, (1,) * len(items))


def prompts(n: int, name: str) -> list[Prompt]:
    return [Prompt(f"{name}{i}", text=f"{name}{i}") for i in range(n)]


def quiet(stage: str, done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.mark.slow
@pytest.mark.parametrize("attempts", [2.0, 3.0])
def test_the_wanted_cost_is_met_on_prompts_not_seen(attempts: float) -> None:
    plan = Plan(attempts, segment_size=6, max_new_tokens=24, n_draws=4, n_slots=4)
    calibrator = Calibrator(letters_model(), PromptReward({}), plan, quiet)
    outline = calibrator.solve(prompts(150, "seen"))
    assert outline.predicted.attempts == pytest.approx(attempts, rel=0.05)
    low, high = outline.predicted.attempts_ci95
    assert low < attempts < high
    checked, _ = calibrator.check(prompts(250, "unseen"), outline)
    low, high = checked.attempts_ci95
    assert low - 0.15 * attempts <= attempts <= high + 0.15 * attempts
    assert checked.forced_share == pytest.approx(outline.predicted.forced_share, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_answers_of_one_segment_meet_the_wanted_cost_in_two_rounds(seed: int) -> None:
    plan = Plan(3.0, segment_size=8, max_new_tokens=8, n_rounds=2, seed=seed)
    outline = Calibrator(letters_model(), PromptReward({}), plan, quiet).solve(prompts(60, "one"))
    assert outline.predicted.attempts == pytest.approx(3.0, rel=0.25)


def test_the_round_that_came_closest_is_kept() -> None:
    misses = []
    for n_rounds in (1, 2, 3, 4):
        plan = Plan(5.0, segment_size=3, max_new_tokens=12, n_draws=2, n_rounds=n_rounds)
        solved = Calibrator(letters_model(), PromptReward({}), plan, quiet).solve(prompts(12, "n"))
        misses.append(abs(np.log(solved.predicted.attempts / 5.0)))
    assert misses == sorted(misses, reverse=True)


def test_a_quantile_is_one_of_the_plain_rewards() -> None:
    plan = Plan(None, 0.8, segment_size=6, max_new_tokens=12, n_draws=2)
    outline = Calibrator(letters_model(), PromptReward({}), plan, quiet).solve(prompts(60, "q"))
    assert -1.0 < outline.threshold.r_star < 1.5
    assert outline.predicted.attempts > 1.0


def test_variance_is_split_between_prompts_and_within_one() -> None:
    plan = Plan(2.0, segment_size=6, max_new_tokens=12, n_draws=4, n_rounds=1)
    outline = Calibrator(letters_model(), PromptReward({}), plan, quiet).solve(prompts(100, "v"))
    first = outline.by_position[0]
    assert first["between_variance"] == pytest.approx(0.25 / 12, abs=0.012)
    assert first["within_variance"] > 0


def test_partial_rewards_predict_whole_ones_the_better_the_longer() -> None:
    plan = Plan(2.0, segment_size=6, max_new_tokens=24)
    calibrator = Calibrator(letters_model(), PromptReward({}), plan, quiet)
    rows = partial_agreement(calibrator.plain_answers(prompts(80, "r"), 3), 6)
    assert [row.n_tokens for row in rows] == [6, 12, 18]
    assert all(0.0 < row.pearson < 1.0 and 0.5 < row.pair_agreement <= 1.0 for row in rows)
    assert rows[-1].pearson > rows[0].pearson
    assert rows[0].n_pairs <= 240


def test_constant_rewards_cannot_be_calibrated() -> None:
    with pytest.raises(CalibrationError, match="same reward"):
        Calibrator(letters_model(), TableReward({}), Plan(2.0), quiet).solve(prompts(4, "c"))


def test_both_or_neither_aim_is_refused() -> None:
    for plan in (Plan(3.0, 0.5), Plan(None, None)):
        with pytest.raises(CalibrationError, match="one of the two"):
            Calibrator(letters_model(), TableReward({}), plan, quiet)


def positions_with(mu: Sequence[float], sigma: float, n_draws: int, seed: int) -> list[Position]:
    random = np.random.default_rng(seed)
    return [
        Position(
            f"p{i}",
            0,
            0.0,
            tuple(float(x) for x in random.normal(m, sigma, n_draws)),
            (8,) * n_draws,
            (False,) * n_draws,
        )
        for i, m in enumerate(mu)
    ]


def test_the_law_is_not_fooled_by_few_draws() -> None:
    mu = np.random.default_rng(1).normal(0.0, 1.0, 2000)
    threshold, beta, cap = Threshold(0.7, 1.0, 8), 0.1, 20
    few = AttemptsLaw(positions_with(mu, 0.7, 3, 2), cap).cost(threshold, beta)
    many = AttemptsLaw(positions_with(mu, 0.7, 400, 3), cap).cost(threshold, beta)
    assert few.attempts == pytest.approx(many.attempts, rel=0.05)
    assert few.forced_share == pytest.approx(many.forced_share, abs=0.03)


@given(st.floats(-2, 2), st.floats(0, 0.5), st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_cost_lies_between_one_and_the_cap_and_rises(r: float, beta: float, cap: int) -> None:
    law = AttemptsLaw(positions_with([0.0, 0.3, 1.0], 0.5, 5, 0), cap)
    lower = law.cost(Threshold(r, 0.5, 8), beta)
    higher = law.cost(Threshold(r + 0.3, 0.5, 8), beta)
    assert 1.0 <= lower.attempts <= higher.attempts + 1e-9 <= cap + 1e-6
    assert 0.0 <= lower.forced_share <= higher.forced_share + 1e-9 <= 1.0 + 1e-6


def test_impossible_costs_are_refused_with_the_range() -> None:
    law = AttemptsLaw(positions_with([0.0], 1.0, 5, 0), 4)
    for wanted in (1.0, 4.0, 9.0):
        with pytest.raises(CalibrationError, match="max_attempts, which is 4"):
            solve_threshold(law, Threshold(0.0, 0.5, 8), 0.1, wanted, 4)


ROW = {"mean": 0.2, "between_variance": 0.3}


def example() -> Calibration:
    key = CalibrationKey("a" * 64, "b" * 64, "harmless", "c" * 64, 32)
    cost = Measured(3.0, (2.8, 3.2), 0.05, 256, 1000)
    return Calibration(
        key,
        alpha=0.8,
        beta=0.1,
        reward_threshold=1.5,
        quantiles=(0.1, 0.2),
        spread=1.0,
        within_spread=0.5,
        max_new_tokens=128,
        max_attempts=20,
        wanted="attempts 3",
        quick=False,
        predicted=cost,
        checked=None,
        by_position=(
            {**ROW, "segment": 0.0, "n_positions": 256.0, "within_variance": 0.64},
            {**ROW, "segment": 1.0, "n_positions": 2.0, "within_variance": 0.01},
        ),
        made={"date": "2026-01-01"},
    )


def test_files_round_trip_and_leave_nothing_else(tmp_path: Path) -> None:
    calibration = example()
    path = tmp_path / "deep" / calibration.key.file_name
    write_calibration(calibration, path)
    assert read_calibration(path) == calibration
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert find_calibration(calibration.key, [tmp_path / "none", path.parent]) == calibration


def with_variances(variances: Sequence[float], counts: Sequence[float], n: int) -> Calibration:
    rows = tuple(
        {**ROW, "segment": float(i), "n_positions": count, "within_variance": variance}
        for i, (variance, count) in enumerate(zip(variances, counts, strict=True))
    )
    return dataclasses.replace(example(), by_position=rows, max_new_tokens=n)


@given(
    st.floats(0.01, 10.0),
    st.floats(-2.0, 0.0),
    st.lists(st.floats(1.0, 300.0), min_size=1, max_size=9),
)
def test_spreads_follow_the_power_law_of_the_variances(
    first: float, power: float, counts: list[float]
) -> None:
    variances = [first * i**power for i in range(1, len(counts) + 1)]
    found = with_variances(variances, counts, 32 * len(counts)).spreads
    assert found == pytest.approx([variance**0.5 for variance in variances])


def test_few_answers_say_little_of_a_spread_and_cut_or_dead_segments_nothing() -> None:
    counts = [24.0, 24.0, 24.0, 12.0]
    even = with_variances([0.3] * 4, counts, 128).spreads
    odd = with_variances([0.3, 0.3, 0.9, 0.3], counts, 128).spreads
    assert max(odd) < 1.4 * max(even) < 3**0.5 * max(even)
    assert with_variances([0.3, 0.3, 0.3, 1e-9], counts, 120).spreads == pytest.approx(even[:3])
    assert with_variances([0.3, 0.0, 0.3, 0.3], counts, 128).spreads == pytest.approx(even)
    assert with_variances([0.0] * 4, counts, 128).spreads == ()
    assert with_variances([0.3], [24.0], 20).spreads == pytest.approx(even[:1])


@given(
    st.lists(
        st.tuples(st.floats(0.0, allow_infinity=False), st.floats(0.0, allow_infinity=False)),
        max_size=40,
    )
)
def test_spreads_of_any_file_are_numbers_above_zero(rows: list[tuple[float, float]]) -> None:
    found = with_variances([v for v, _ in rows], [n for _, n in rows], 10_000).spreads
    assert all(0.0 < spread < float("inf") for spread in found)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(CalibrationKey)])
def test_a_calibration_for_another_thing_is_refused_by_name(field: str) -> None:
    calibration = example()
    other: Any = 16 if field == "segment_size" else "d" * 64
    key = dataclasses.replace(calibration.key, **{field: other})
    with pytest.raises(CalibrationError, match=field.removesuffix("_sha256")):
        require_key(calibration, key, "x.json")
    assert key.file_name != calibration.key.file_name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("beta"), "the field 'beta' is missing: calibrate again"),
        (lambda d: d.update(gamma=1), "unknown field 'gamma'"),
        (lambda d: d.update(schema=99), "schema is 99"),
        (lambda d: d["by_position"][1].pop("mean"), r"by_position\[1\] has other keys"),
        (lambda d: d["by_position"][0].update(within_variance=-1), r"within_variance is -1"),
        (lambda d: d.update(within_spread=-0.1), "within_spread is -0.1"),
        (lambda d: d.update(beta="much"), "much"),
        (lambda d: d["key"].update(more=1), "more"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, change: Any, message: str) -> None:
    data = example().to_json()
    data = json.loads(json.dumps(data))
    change(data)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CalibrationError, match=message) as error:
        read_calibration(path)
    assert "\n" not in str(error.value)
    for text in ("", "[]", "{", "\x00"):
        path.write_text(text)
        with pytest.raises(CalibrationError, match=r"c\.json"):
            read_calibration(path)
