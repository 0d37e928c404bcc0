"""Drawing proposals: all branches of a round, one token each per decode, in one batch.

The first token of every branch comes from its trunk's logits, so a segment of B tokens costs
one decode of the trunk's last token, once for all branches, and B - 1 decodes of the branches.
A branch that has ended leaves the batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stars_local.core.errors import GrammarError, OutOfCellsError
from stars_local.core.ports import Order
from stars_local.core.records import End
from stars_local.llama.branches import Branch, Logits, Trunk
from stars_local.llama.library import native
from stars_local.llama.runtime import Runtime

_FILLER = 0  # any token of the vocabulary
MAX_GAP = 8  # streams to fill: a split costs about as much as so many rows


@dataclass(slots=True)
class Lot:
    """The branches of one order, being drawn. borrows: in the trunk's own sequence."""

    order: Order
    trunk: Trunk
    branches: list[Branch]
    borrows: bool = False

    @property
    def is_going(self) -> bool:
        """Whether a branch has not ended."""
        return any(branch.end is None for branch in self.branches)

    @property
    def must_stop(self) -> bool:
        """Whether whoever ordered wants no more tokens."""
        return self.order.should_stop is not None and self.order.should_stop()


class Round:
    """Draws the branches of some lots together; the lots lose branches where room runs out."""

    def __init__(self, runtime: Runtime, lots: Sequence[Lot]) -> None:
        self._runtime = runtime
        self._lots = lots
        self._sample: Callable[..., int] = native().llama_sampler_sample

    def draw(self) -> None:
        """Draw until every branch has ended."""
        self._runtime.last_width = max((len(lot.branches) for lot in self._lots), default=0)
        for lot in self._lots:
            for branch in lot.branches:
                if branch.room <= 0:
                    branch.finish(End.CONTEXT)
            self._halt(lot)
        lots = [lot for lot in self._lots if lot.is_going]
        if self._runtime.lends:
            self._runtime.close_ranks([lot.trunk for lot in lots if lot.trunk.seq >= 0])
        self._runtime.catch_up(list({lot.trunk.id: lot.trunk for lot in lots}.values()))
        for lot in lots:
            for branch in lot.branches:
                self._draw_from(branch, lot.trunk.known_logits)
            self._fork(lot)
        self._step_all(lots)

    def _fork(self, lot: Lot) -> None:
        """Give sequences to the branches that go on."""
        going = [branch for branch in lot.branches if branch.end is None]
        if lot.borrows:
            for branch in going:
                self._runtime.lend(lot.trunk, branch)
            return
        n_done = self._runtime.fork(lot.trunk, going)
        if n_done == len(going):
            return
        # the proposals that are left must be the first ones, whatever their lengths
        first_missing = lot.branches.index(going[n_done])
        for branch in reversed(lot.branches[first_missing:]):
            self._give_up(lot, branch)

    def _step_all(self, lots: Sequence[Lot]) -> None:
        """Decode and draw, a token a branch at a time."""
        runtime = self._runtime
        batch, context = runtime.batch, runtime.context
        tokens, positions = batch.tokens, batch.positions
        sequences, wants_logits = batch.sequences, batch.wants_logits
        while True:
            active: list[Branch] = []
            for lot in lots:
                self._halt(lot)
                active += [branch for branch in lot.branches if branch.end is None]
            if not active:
                return
            if runtime.lends:
                active.sort(key=lambda branch: branch.held_seq)
            for at, branch in enumerate(active):
                tokens[at] = branch.token_ids[-1]
                positions[at] = branch.trunk.n_decoded + branch.n_decoded
                sequences[at] = branch.held_seq
                wants_logits[at] = 1
            places, fillers = self._fill(len(active))
            has_room = batch.decode(context, len(active) + len(fillers))
            for seq, position in fillers:
                runtime.take_back(seq, position)
            if not has_room:
                self._shed(lots)
                continue
            for at, branch in zip(places, active, strict=True):
                branch.n_decoded += 1
                runtime.ledger.hold(branch.held_seq, 1)
                self._draw_at(branch, at)

    def _fill(self, n: int) -> tuple[Sequence[int], list[tuple[int, int]]]:
        """Put tokens of no meaning into the streams between those of the batch's `n` entries: a
        gap would split the batch, which costs more than a few rows.

        Returns the new places of the entries, and the streams with the positions filled.
        """
        runtime, batch = self._runtime, self._runtime.batch
        if not runtime.lends:
            return range(n), []
        seqs = batch.sequences[:n]
        fillers: dict[int, int] = {}
        for low, high in itertools.pairwise(seqs):
            if high - low - 1 <= min(MAX_GAP, batch.capacity - n - len(fillers)):
                between = {seq: runtime.n_in(seq) for seq in range(low + 1, high)}
                if max(between.values(), default=0) < runtime.model.n_ctx:
                    fillers |= between
        if not fillers:
            return range(n), []
        entries = sorted(
            [*zip(seqs, batch.positions[:n], batch.tokens[:n], strict=True)]
            + [(seq, position, _FILLER) for seq, position in fillers.items()]
        )
        places = []
        for at, (seq, position, token) in enumerate(entries):
            batch.put(at, token, position, seq, logits=seq not in fillers)
            if seq not in fillers:
                places.append(at)
        return places, list(fillers.items())

    # -- one token ---------------------------------------------------------------------------

    def _draw_at(self, branch: Branch, at: int) -> None:
        """Draw from entry `at` of the batch just decoded."""
        runtime = self._runtime
        if branch.boundary.needs_entropy or branch.chain.constrained or branch.trunk.wants_logprobs:
            logits = runtime.logits(at)
            if branch.boundary.needs_entropy and branch.boundary.ends_before(
                len(branch.token_ids), entropy(logits)
            ):
                branch.logits = logits.copy()
                branch.finish(End.BOUNDARY)
                return
            self._draw_from(branch, logits)
            return
        branch.chain.seed_for(len(branch.token_ids))
        token = self._sample(branch.chain.handle, runtime.context, at)
        branch.take(token, runtime.vocabulary)

    def _draw_from(self, branch: Branch, logits: Logits) -> None:
        """Draw from any logits."""
        runtime = self._runtime
        branch.chain.seed_for(len(branch.token_ids))
        token = runtime.candidates.draw(branch.chain.handle, logits)
        if token is None:
            raise GrammarError(
                f"the grammar allows no token of this model's vocabulary after {branch.text!r}: "
                "loosen it"
            )
        branch.chain.accept(token)
        if branch.trunk.wants_logprobs:
            branch.logprobs.append(logprob(logits, token))
        branch.take(token, runtime.vocabulary)

    # -- running short -----------------------------------------------------------------------

    def _halt(self, lot: Lot) -> None:
        """End the branches of a lot that is to stop."""
        if lot.is_going and lot.must_stop:
            for branch in lot.branches:
                if branch.end is None:
                    branch.finish(End.HALTED)

    def _shed(self, lots: Sequence[Lot]) -> None:
        """The cache had no room after all: free what only saves time, else the last branch of
        the fullest lot. Raises OutOfCellsError when every lot is down to one."""
        if self._runtime.evict():
            return
        fullest = max(lots, key=lambda lot: len(lot.branches))
        self._give_up(fullest, fullest.branches[-1])

    def _give_up(self, lot: Lot, branch: Branch) -> None:
        if len(lot.branches) == 1:
            ledger = self._runtime.ledger
            raise OutOfCellsError(
                f"no room for one more token in a cache of {ledger.n_cells} cells: raise --n-ctx "
                "or draw fewer prompts at once"
            )
        lot.branches.remove(branch)
        self._runtime.park(branch)
        branch.chain.free()


def entropy(logits: Logits) -> float:
    """Shannon entropy in nats of softmax(logits), the model's own distribution, untruncated."""
    shifted = logits - logits.max()
    weights = np.exp(shifted)
    total = float(weights.sum())
    return float(np.log(total) - float(np.dot(weights, shifted)) / total)


def logprob(logits: Logits, token: int) -> float:
    """Log-probability of a token under softmax(logits), untruncated."""
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))
