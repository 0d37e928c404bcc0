"""Recovery and the two-sample test, against samples whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stars_local.core.errors import DataError
from stars_local.evals.metrics import Estimate
from stars_local.quants.recovery import _bounded, recovery
from stars_local.quants.rows import plain
from stars_local.quants.twosample import string_kernel, two_sample


def arms(lost: float, gained: float, seed: int = 0) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 1, 200)
    columns = (base, base - lost + rng.normal(0, 0.1, 200), base - lost + gained)
    return [{str(i): float(v) for i, v in enumerate(column)} for column in columns]


def test_half_of_a_loss_given_back_is_a_half() -> None:
    found = recovery(*arms(lost=1.0, gained=0.5))
    assert found.share is not None
    assert found.share.value == pytest.approx(0.5, abs=0.05)
    assert found.share.low < 0.5 < found.share.high
    assert found.left.value == pytest.approx(-0.5, abs=0.05)


def test_no_certain_loss_has_no_share() -> None:
    found = recovery(*arms(lost=0.0, gained=0.5))
    assert found.share is None
    assert found.gained.low > 0


def test_more_than_all_may_be_given_back() -> None:
    found = recovery(*arms(lost=0.5, gained=1.5))
    assert found.share is not None and found.share.low > 2


def test_unbounded_says_that_the_upper_end_is_infinite() -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for lost in np.linspace(0.02, 0.5, 49):
        base = {str(i): float(v) for i, v in enumerate(rng.normal(lost, 1, 40))}
        zero, gained = dict.fromkeys(base, 0.0), dict.fromkeys(base, 1.0)
        found = recovery(base, zero, gained)
        if found.share is not None:
            assert found.unbounded == math.isinf(found.share.high)
            assert found.unbounded or found.share.high < 1e6
            seen.add(found.unbounded)
    assert False in seen


def test_a_loss_that_grew_has_no_lower_end_where_it_is_uncertain() -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for lost in np.linspace(0.02, 0.5, 49):
        base = {str(i): float(v) for i, v in enumerate(rng.normal(lost, 1, 40))}
        zero, worse = dict.fromkeys(base, 0.0), dict.fromkeys(base, -1.0)
        found = recovery(base, zero, worse)
        if found.share is not None:
            assert found.share.high < 0
            assert found.unbounded == math.isinf(found.share.low)
            seen.add(found.unbounded)
    assert False in seen


def test_a_quantile_among_resamples_without_a_loss_is_unbounded() -> None:
    near = Estimate(0.5, 0.1, float(np.finfo(np.float64).max) * 0.01, 40)
    assert _bounded(near).high == math.inf
    assert _bounded(Estimate(0.5, 0.1, 1e9, 40)).high == 1e9
    assert plain({"high": _bounded(near).high}) == {"high": None}


def test_only_shared_prompts_count() -> None:
    reference, vanilla, stars = arms(lost=1.0, gained=1.0)
    same = recovery({**reference, "more": 1e9}, vanilla, stars)
    assert same == recovery(reference, vanilla, stars)
    with pytest.raises(DataError, match="share no prompt"):
        recovery({"a": 1.0}, vanilla, stars)


def texts(words: str, n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words.split(), 12)) for _ in range(n)]


def test_texts_of_other_words_are_told_apart() -> None:
    found = two_sample(texts("red green blue", 30, 1), texts("one two three", 30, 2))
    assert found.p_value < 0.01 and not found.equivalent


def test_p_values_of_equal_writers_are_uniform() -> None:
    values = [
        two_sample(texts("a b c d e", 12, 2 * i), texts("a b c d e", 12, 2 * i + 1)).p_value
        for i in range(60)
    ]
    assert sum(value <= 0.2 for value in values) <= 24  # 12 expected; beyond 24 once in 10,000
    assert sum(value > 0.5 for value in values) >= 16


def test_the_same_texts_are_equivalent() -> None:
    mine = texts("red green blue", 20, 3)
    found = two_sample(mine, mine)
    assert found.mmd2 == pytest.approx(0, abs=1e-12)
    assert found.p_value == 1.0 and found.equivalent
    with pytest.raises(DataError, match="3 or more"):
        two_sample(mine, mine[:-1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=2, max_size=6))
def test_the_kernel_is_a_kernel(some: list[str]) -> None:
    kernel = string_kernel(some)
    assert np.allclose(np.diag(kernel), 1) and np.allclose(kernel, kernel.T)
    assert np.linalg.eigvalsh(kernel).min() > -1e-9
