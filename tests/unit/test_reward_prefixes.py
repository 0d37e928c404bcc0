"""The prefix cache on a network whose output hangs on every token and its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.errors import RewardError
from stars_local.reward.prefixes import PrefixCache, common
from stars_local.reward.session import Session

TAIL = [7, 8]
tokens = st.lists(st.integers(0, 3), max_size=12)


class Network:
    """Keys are the tokens' ids: the output is a polynomial of past and new ids together."""

    fails = False

    def no_past(self) -> list[Any]:
        return [np.empty((0, 1, 1), np.float32)]

    def run_on(self, past: Sequence[Any], ids: Any, mask: Any) -> tuple[Any, list[Any]]:
        if self.fails:
            raise RewardError("no")
        before = [int(x) for x in past[0].ravel()]
        outputs = [
            whole([*before, *(int(x) for x in row[: real.sum()])])
            for row, real in zip(ids, mask, strict=True)
        ]
        return np.array(outputs, np.float32)[:, None], [ids[:, :, None, None].astype(np.float32)]


def whole(row: Sequence[int]) -> float:
    return float(sum((i + 1) * (token + 1) for i, token in enumerate(row)))


def together(rows: Sequence[Sequence[int]], _: int) -> Iterator[list[int]]:
    yield list(range(len(rows)))


def cache(network: Network | None = None, max_bytes: int = 1 << 20) -> PrefixCache:
    return PrefixCache(cast(Session, network or Network()), 0, max_bytes)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.lists(tokens, min_size=1, max_size=5)), max_size=6)
)
def test_any_texts_in_any_order_score_as_if_read_whole(
    rounds: list[tuple[str, list[list[int]]]],
) -> None:
    prefixes = cache(max_bytes=400)
    for key, texts in rounds:
        rows = [[*text, *TAIL] for text in texts]
        outputs, _ = prefixes.score(key, rows, len(TAIL), together)
        assert outputs[:, 0].tolist() == [whole(row) for row in rows]
        assert prefixes.n_bytes <= 400


@given(st.lists(st.lists(st.integers(0, 3), min_size=8, max_size=8), min_size=1, max_size=6))
def test_only_new_tokens_are_read_and_the_end_is_never_kept(segments: list[list[int]]) -> None:
    prefixes = cache()
    accepted = [1] * 40
    prefixes.score("a", [[*accepted, *TAIL]], len(TAIL), together)
    for segment in segments:
        before = prefixes.n_read
        rows = [[*accepted, *segment, *TAIL], [*accepted, 9, *segment, *TAIL]]
        prefixes.score("a", rows, len(TAIL), together)
        shared = common(rows[0], rows[1])
        assert prefixes.kept("a") == accepted[:shared]
        assert prefixes.n_read - before == sum(len(row) - len(accepted) for row in rows)
        accepted += segment


def test_a_merge_across_the_border_cuts_the_trunk() -> None:
    prefixes = cache()
    prefixes.score("a", [[1, 2, 3, 4, *TAIL]], 2, together)
    prefixes.score("a", [[1, 2, 3, 4, 5, *TAIL]], 2, together)
    assert prefixes.kept("a") == [1, 2, 3, 4]
    row = [1, 2, 3, 9, 5, *TAIL]
    assert prefixes.score("a", [row], 2, together)[0].tolist() == [[whole(row)]]
    assert prefixes.kept("a") == [1, 2, 3]


def test_common_tokens_of_a_first_round_are_read_once() -> None:
    prefixes = cache()
    rows = [[*([1] * 50), i, *TAIL] for i in range(2, 6)]
    prefixes.score("a", rows, 2, together)
    assert prefixes.n_read == 50 + 4 * 3


def test_the_oldest_prompt_goes_when_memory_ends() -> None:
    prefixes = cache(max_bytes=4 * 25)
    for key in "abc":
        prefixes.score(key, [[1] * 10], 0, together)
        prefixes.score(key, [[1] * 11], 0, together)
    assert prefixes.kept("a") == []
    assert prefixes.kept("c") == [1] * 10


def test_an_error_forgets_the_prompt_and_nothing_else() -> None:
    network = Network()
    prefixes = cache(network)
    for key in "ab":
        for n in (10, 11):
            prefixes.score(key, [[1] * n], 0, together)
    network.fails = True
    with pytest.raises(RewardError, match="no"):
        prefixes.score("a", [[1] * 12], 0, together)
    assert prefixes.kept("a") == []
    assert prefixes.kept("b") == [1] * 10
