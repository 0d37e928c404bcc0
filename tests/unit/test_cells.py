"""The cell ledger: what is counted, and how room is shared out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stars_local.llama.cells import CellLedger, Need, Sharing

NEEDS = st.lists(
    st.builds(
        Need,
        n_draws=st.integers(0, 12),
        n_prefix=st.integers(0, 60),
        n_new=st.integers(0, 40),
    ),
    min_size=1,
    max_size=6,
)


def ledger(sharing: Sharing, n_cells: int = 100, n_seqs: int = 8) -> CellLedger:
    """An empty ledger."""
    return CellLedger(n_cells, n_seqs, sharing)


def test_a_branch_costs_its_own_tokens_or_its_prefix_too() -> None:
    need = Need(n_draws=3, n_prefix=20, n_new=7)
    costs = {sharing: ledger(sharing).branch_cost(need) for sharing in Sharing}
    assert costs == {Sharing.SHARED: 7, Sharing.COPIED: 27, Sharing.OWN: 0}


def test_a_branch_that_is_never_decoded_costs_nothing() -> None:
    for sharing in Sharing:
        books = ledger(sharing)
        assert books.branch_cost(Need(5, 20, 0)) == 0
        assert books.allot([Need(5, 20, 0)], n_cells=0, n_seqs=0) == [5]


def test_room_is_used_to_the_last_cell() -> None:
    need = Need(n_draws=9, n_prefix=20, n_new=10)
    for sharing, each in ((Sharing.SHARED, 10), (Sharing.COPIED, 30)):
        books = ledger(sharing)
        for n in range(1, 9):
            assert books.allot([need], n_cells=n * each, n_seqs=99) == [n]
            assert books.allot([need], n_cells=n * each + each - 1, n_seqs=99) == [n]
        assert books.allot([need], n_cells=each - 1, n_seqs=99) is None


def test_sequences_are_used_to_the_last_one() -> None:
    need = Need(n_draws=9, n_prefix=20, n_new=10)
    for sharing in Sharing:
        books = ledger(sharing)
        assert books.allot([need], n_cells=10**6, n_seqs=4) == [4]
        assert books.allot([need, need], n_cells=10**6, n_seqs=5) == [3, 2]
        assert books.allot([need, need], n_cells=10**6, n_seqs=1) is None


def test_a_fork_and_its_promotion_keep_the_count() -> None:
    for sharing, while_forked in ((Sharing.SHARED, 25), (Sharing.COPIED, 45), (Sharing.OWN, 0)):
        books = ledger(sharing)
        trunk, branch = books.take_seq(), books.take_seq()
        books.hold(trunk, 20)
        books.fork(branch, 20)
        books.hold(branch, 5)
        assert books.n_held == while_forked
        books.succeed(branch, trunk)
        assert books.n_held == books.held_by(branch) == (0 if sharing is Sharing.OWN else 25)
        books.release_seq(branch)
        assert (books.n_held, books.n_free_seqs) == (0, 8)


def test_sequence_ids_come_lowest_first() -> None:
    books = ledger(Sharing.SHARED)
    assert [books.take_seq() for _ in range(4)] == [0, 1, 2, 3]
    for seq in (2, 0):
        books.release_seq(seq)
    assert [books.take_seq() for _ in range(3)] == [0, 2, 4]


@given(NEEDS, st.sampled_from(Sharing), st.integers(0, 500), st.integers(0, 30))
def test_nothing_is_promised_twice(
    needs: list[Need], sharing: Sharing, n_cells: int, n_seqs: int
) -> None:
    books = ledger(sharing)
    granted = books.allot(needs, n_cells=n_cells, n_seqs=n_seqs)
    minimum_cells = sum(books.branch_cost(need) for need in needs)
    minimum_seqs = sum(need.forks for need in needs)
    if granted is None:
        assert minimum_cells > n_cells or minimum_seqs > n_seqs
        return
    assert all(
        min(1, need.n_draws) <= n <= need.n_draws for n, need in zip(granted, needs, strict=True)
    )
    pairs = list(zip(granted, needs, strict=True))
    used_cells = sum(n * books.branch_cost(need) for n, need in pairs)
    used_seqs = sum(n for n, need in pairs if need.forks)
    assert used_seqs <= n_seqs
    assert sharing is Sharing.OWN or used_cells <= n_cells
    # whoever got less than asked for could not have had one more
    for n, need in pairs:
        if n < need.n_draws:
            assert used_seqs + 1 > n_seqs or used_cells + books.branch_cost(need) > n_cells
