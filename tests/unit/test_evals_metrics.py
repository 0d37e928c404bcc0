"""Metrics and rules of evaluation: identities, known values, coverage of the intervals."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stars_local.evals.metrics import (
    bootstrap,
    distinct_n,
    duel,
    length_controlled_win_rate,
    mean,
    percentiles,
    ratio,
    self_bleu,
)
from stars_local.evals.refusals import agreement, is_refusal

VALUES = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-5, 5), min_size=1)


@given(VALUES, VALUES, st.floats(0, 2))
@settings(max_examples=30, deadline=None)
def test_a_duel_is_a_zero_sum_game(
    first: dict[str, float], second: dict[str, float], margin: float
) -> None:
    if not set(first) & set(second):
        return
    there, back = duel(first, second, margin=margin), duel(second, first, margin=margin)
    shares = (there.win, there.tie, there.loss)
    assert sum(share.value for share in shares) == pytest.approx(1)
    assert all(0 <= share.low <= share.value <= share.high <= 1 for share in shares)
    assert (there.win, there.tie, there.loss) == (back.loss, back.tie, back.win)
    assert there.win_rate.value == pytest.approx(there.win.value + there.tie.value / 2)
    assert there.win_rate.value + back.win_rate.value == pytest.approx(1)
    assert there.difference.value == pytest.approx(-back.difference.value)
    assert there.win_rate.low <= there.win_rate.value <= there.win_rate.high


def test_a_margin_makes_ties_with_and_without_length_control() -> None:
    first, second = {"a": 1.0, "b": 0.0, "c": 3.0}, {"a": 0.5, "b": 0.5, "c": 1.0}
    even = dict.fromkeys("abc", 10.0)
    found = duel(first, second, margin=0.5)
    assert (found.win.value, found.tie.value) == pytest.approx((1 / 3, 2 / 3))
    controlled = length_controlled_win_rate(first, second, even, even, margin=0.5)
    assert controlled.value == pytest.approx(found.win_rate.value)
    assert duel(first, second).tie.value == 0


def test_the_interval_of_a_mean_is_as_wide_as_its_error_says() -> None:
    dice = random.Random(2)
    values = [dice.gauss(0.0, 1.0) for _ in range(400)]
    error = float(np.std(values)) / math.sqrt(len(values))
    found = mean(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.12)
    rates = duel(dict(enumerate(values)), dict.fromkeys(range(400), 0.0))
    width = 2 * 1.96 * math.sqrt(rates.win.value * (1 - rates.win.value) / 400)
    assert rates.win.high - rates.win.low == pytest.approx(width, rel=0.15)


def test_intervals_cover_as_often_as_they_say() -> None:
    dice = random.Random(1)
    hits = 0
    for i in range(200):
        sample = [[dice.gauss(1.0, 2.0)] for _ in range(60)]
        found = bootstrap(sample, lambda rows: float(rows.mean()), seed=i, n_resamples=400)
        hits += found.low <= 1.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_nothing_measured_is_not_a_number() -> None:
    assert math.isnan(mean([]).value)
    assert math.isnan(ratio([], []).value)
    assert all(map(math.isnan, percentiles([])))
    assert math.isnan(distinct_n([], 2))
    assert math.isnan(self_bleu(["one text"]))


def test_a_ratio_weighs_prompts_by_their_size() -> None:
    assert ratio([1, 9], [1, 3]).value == pytest.approx(2.5)


def test_length_control_takes_out_what_length_explains() -> None:
    dice = random.Random(2)
    lengths = {str(i): dice.uniform(50, 150) for i in range(400)}
    other = dict.fromkeys(lengths, 80.0)
    by_length = {key: value / 100 + dice.gauss(0, 0.1) for key, value in lengths.items()}
    plain = dict.fromkeys(lengths, 0.8)
    raw = duel(by_length, plain).win_rate.value
    controlled = length_controlled_win_rate(by_length, plain, lengths, other)
    assert raw > 0.65
    assert abs(controlled.value - 0.5) < abs(raw - 0.5) / 2


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 1.0]), st.integers(-50, 50)), min_size=1))
@settings(max_examples=30, deadline=None)
def test_length_control_is_a_line_by_least_squares(rows: list[tuple[float, int]]) -> None:
    mine = {str(i): value for i, (value, _) in enumerate(rows)}
    lengths = {str(i): 100.0 + length for i, (_, length) in enumerate(rows)}
    even = dict.fromkeys(mine, 100.0)
    found = length_controlled_win_rate(mine, dict.fromkeys(mine, 0.0), lengths, even)
    points = np.array([value / 2 + 0.5 for value, _ in rows])
    differences = np.array([float(length) for _, length in rows])
    expected = points.mean()
    if differences.std() > 0:
        x = np.tanh(differences / differences.std())
        assume(x.std() > 1e-3)  # else all lengths are one: no line goes through one place
        design = np.stack([np.ones_like(x), x], axis=1)
        expected = np.clip(np.linalg.lstsq(design, points, rcond=None)[0][0], 0, 1)
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert 0 <= found.low <= found.high <= 1


def test_diversity_of_known_texts() -> None:
    assert distinct_n(["a b a b"], 1) == pytest.approx(0.5)
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    same, different = ["the cat sat on the mat"] * 3, ["a b c d e", "f g h i j", "k l m n o"]
    assert self_bleu(same) == pytest.approx(1.0)
    assert self_bleu(different) == 0.0


def test_a_text_too_short_for_some_ngrams_is_measured_by_those_it_has() -> None:
    # of "a b": both words stand in the other text, its pair of words does not: 0 + 1 over 1 + 1
    assert self_bleu(["a b", "b a"]) == pytest.approx(math.sqrt(1 / 2))
    assert self_bleu(["yes", "yes"]) == pytest.approx(1.0)
    assert self_bleu(["a b", "b a"], n=1) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m not able to assist.", True),
        ("Sure! First, take " + "x" * 300 + " I cannot go on.", False),
        ("", False),
        ("You can bake bread in an hour.", False),
    ],
)
def test_refusals_by_rule(text: str, refused: bool) -> None:
    assert is_refusal(text) is refused


def test_agreement_counts_both_kinds_of_error() -> None:
    found = agreement(
        [("I can't.", True), ("I can't.", False), ("Sure.", True), ("Sure.", False), ("Ok.", False)]
    )
    assert (found.accuracy, found.precision, found.recall, found.n) == (0.6, 0.5, 0.5, 5)
