"""Who holds how many KV cells: a ledger kept in Python, so that room is known before decoding.

A cell is room for one position of one sequence. What a branch costs depends on how it came to
be:

    SHARED   it shares the cells of its trunk, and owns those of its own tokens
    COPIED   it owns a copy of its trunk's cells as well
    OWN      every sequence has cells of its own, as many as the context is long, or needs none

The ledger plans; it never looks at the native side. So the same calls give the same widths.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Sharing(StrEnum):
    """How the cells of a branch relate to those of its trunk."""

    SHARED = "shared"
    COPIED = "copied"
    OWN = "own"


@dataclass(frozen=True, slots=True)
class Need:
    """Room for `n_draws` branches of `n_new` cells each, on a trunk of `n_prefix` cells.

    A branch of no new cells is never decoded: it needs neither cells nor a sequence. borrows: the
    only branch is drawn in the trunk's own sequence.
    """

    n_draws: int
    n_prefix: int
    n_new: int
    borrows: bool = False

    @property
    def forks(self) -> bool:
        """Whether any branch is needed at all."""
        return self.n_draws > 0 and self.n_new > 0


class CellLedger:
    """Sequences and cells of one context: n_cells in total, n_seqs sequence ids."""

    def __init__(self, n_cells: int, n_seqs: int, sharing: Sharing) -> None:
        self.n_cells = n_cells
        self.sharing = sharing
        self.n_held = 0
        self._held: dict[int, int] = {}
        self._free_seqs = list(range(n_seqs))

    @property
    def n_free_cells(self) -> int:
        """Cells that nobody holds."""
        return self.n_cells - self.n_held

    @property
    def n_free_seqs(self) -> int:
        """Sequence ids that nobody holds."""
        return len(self._free_seqs)

    @property
    def lowest_free_seq(self) -> int | None:
        """The sequence id that `take_seq` would give."""
        return self._free_seqs[0] if self._free_seqs else None

    def take_seq(self) -> int:
        """The lowest free sequence id, holding no cells. IndexError if there is none."""
        seq = heapq.heappop(self._free_seqs)
        self._held[seq] = 0
        return seq

    def release_seq(self, seq: int) -> None:
        """Give back a sequence id and the cells that it holds."""
        self.n_held -= self._held.pop(seq)
        heapq.heappush(self._free_seqs, seq)

    def hold(self, seq: int, n: int) -> None:
        """`seq` holds `n` more cells; negative gives some back."""
        if self.sharing is Sharing.OWN:
            return
        self._held[seq] += n
        self.n_held += n

    def held_by(self, seq: int) -> int:
        """Cells that a sequence holds."""
        return self._held[seq]

    def has_room(self, n: int) -> bool:
        """Whether `n` more cells are free."""
        return self.sharing is Sharing.OWN or n <= self.n_free_cells

    def would_fit(self, n: int) -> bool:
        """Whether `n` cells are no more than there are."""
        return self.sharing is Sharing.OWN or n <= self.n_cells

    def fork(self, seq: int, n_prefix: int) -> None:
        """`seq` became a branch of a trunk of `n_prefix` cells."""
        if self.sharing is Sharing.COPIED:
            self.hold(seq, n_prefix)

    def succeed(self, winner: int, trunk: int) -> None:
        """`winner`, a branch of `trunk`, becomes the trunk and takes over what it shares. A trunk
        that was stowed has no sequence (-1) and nothing to hand over."""
        if trunk < 0:
            return
        if self.sharing is Sharing.SHARED:
            self.hold(winner, self._held[trunk])
        self.release_seq(trunk)

    def branch_cost(self, need: Need) -> int:
        """Cells of one branch when it is fully drawn."""
        if self.sharing is Sharing.OWN or not need.forks:
            return 0
        return need.n_new if self.sharing is Sharing.SHARED else need.n_prefix + need.n_new

    def allot(self, needs: Sequence[Need], *, n_cells: int, n_seqs: int) -> list[int] | None:
        """How many branches each need may get out of `n_cells` and `n_seqs`: one each first, then
        in turn while they last. None if not every need can get one.
        """
        costs = [self.branch_cost(need) for need in needs]
        seq_costs = [int(need.forks and not need.borrows) for need in needs]
        room, seqs = n_cells - sum(costs), n_seqs - sum(seq_costs)
        if seqs < 0 or (room < 0 and self.sharing is not Sharing.OWN):
            return None
        granted = [min(1, need.n_draws) for need in needs]
        hungry = [i for i, need in enumerate(needs) if need.n_draws > 1]
        while hungry:
            still: list[int] = []
            for i in hungry:
                if costs[i] > room or seq_costs[i] > seqs:
                    continue
                room, seqs = room - costs[i], seqs - seq_costs[i]
                granted[i] += 1
                if granted[i] < needs[i].n_draws:
                    still.append(i)
            hungry = still
        return granted
