"""How many tokens a CPU computes the attention of at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stars_local.llama.model import scored_at_once


@given(st.integers(1, 256), st.integers(1, 1 << 20))
def test_scores_stay_within_bounds_or_are_as_few_as_may_be(n_heads: int, n_ctx: int) -> None:
    n_tokens = scored_at_once(n_heads, n_ctx)
    assert 16 <= n_tokens <= 512
    assert n_tokens == 16 or 4 * n_heads * n_ctx * n_tokens <= 256 << 20
    assert n_tokens == 512 or 4 * n_heads * n_ctx * 2 * n_tokens > 256 << 20


def test_usual_contexts_are_computed_512_tokens_at_a_time() -> None:
    assert scored_at_once(9, 4096) == scored_at_once(32, 4096) == 512
    assert scored_at_once(32, 32768) == 64
