"""Prompts in lockstep of a quick calibration: as many as the open context carries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stars_local.calibration.calibrator import Plan
from stars_local.calibration.quick import PROMPT_TOKENS
from stars_local.cli.thresholds import _slots


@given(st.integers(256, 10**6), st.integers(2, 256), st.integers(1, 64))
def test_every_prompt_has_room_for_itself_and_its_draws(
    n_cells: int, n_sequences: int, most: int
) -> None:
    plan = Plan()
    n = _slots(plan, (n_cells, n_sequences), most)
    assert 1 <= n <= most
    each = PROMPT_TOKENS + plan.max_new_tokens + plan.n_draws * plan.segment_size
    assert n == 1 or (n * each <= n_cells and n * (2 + plan.n_draws) <= n_sequences)


def test_a_small_context_draws_one_prompt_at_a_time_and_a_large_one_as_many_as_asked() -> None:
    assert _slots(Plan(), (300, 4), 12) == 1
    assert _slots(Plan(), (100_000, 256), 12) == 12
