"""How many tokens are computed at once where attention keeps their scores."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stars_local.llama.model import scored_at_once


@given(st.integers(0, 256), st.integers(1, 1 << 20), st.integers(2, 256))
def test_scores_stay_within_bounds_or_a_step_is_whole(n_heads: int, n_ctx: int, n: int) -> None:
    n_tokens = scored_at_once(n_heads, n_ctx, n)
    assert n <= n_tokens <= 512
    assert n_tokens // 2 < n or 4 * n_heads * n_ctx * n_tokens <= 256 << 20
    assert n_tokens == 512 or 4 * n_heads * n_ctx * 2 * n_tokens > 256 << 20


def test_usual_contexts_are_computed_512_tokens_at_a_time() -> None:
    assert scored_at_once(9, 4096, 64) == scored_at_once(32, 4096, 64) == 512
    assert scored_at_once(32, 32768, 17) == scored_at_once(32, 32768, 64) == 64
    assert scored_at_once(32, 1 << 20, 256) == 256
