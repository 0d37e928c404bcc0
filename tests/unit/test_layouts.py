"""The context of prompts in lockstep: streams where lengths are known, one cache elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.cohorts import layout_of_draws
from stars_local.core.errors import UsageError
from stars_local.settings import Settings


@given(st.integers(1, 16), st.integers(2, 6), st.integers(1, 400), st.integers(1, 5000))
def test_a_stream_holds_the_longest_prompt_and_its_answer(
    n_slots: int, n_draws: int, max_new_tokens: int, longest: int
) -> None:
    layout = layout_of_draws(Settings(), n_slots, n_draws, max_new_tokens, longest)
    assert not layout.unified
    assert longest + max_new_tokens < layout.n_ctx <= longest + max_new_tokens + 65
    assert layout.n_sequences >= n_slots * (1 + n_draws)


def test_a_context_that_was_asked_for_is_one_cache_of_that_size() -> None:
    layout = layout_of_draws(replace(Settings(), n_ctx=777), 4, 2, 128, 60)
    assert layout.unified and layout.n_ctx == 777


def test_a_state_that_cannot_be_cut_has_one_cache_with_room_for_all_draws() -> None:
    layout = layout_of_draws(Settings(), 4, 2, 128, None)
    assert layout.unified and layout.n_ctx > 4 * 128 * 3


def test_more_sequences_than_a_context_holds_are_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError, match="64 prompts at width 4 need 384 sequences"):
        layout_of_draws(Settings(), 64, 4, 128, 60)
