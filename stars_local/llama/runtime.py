"""The native side of a context as the engine uses it: batch, ledger, rollback, decoding."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stars_local.core.errors import OutOfCellsError
from stars_local.llama.batch import Batch
from stars_local.llama.branches import Branch, Cached, Logits, Trunk
from stars_local.llama.cells import CellLedger, Sharing
from stars_local.llama.library import native
from stars_local.llama.model import NativeModel
from stars_local.llama.rollback import (
    BranchRollback,
    Strategy,
    load_sequence,
    save_sequence,
    sharing_of,
)
from stars_local.llama.sampler import Candidates

MAX_CACHED = 4  # every idle cell slows a unified cache
SCATTERING_WIDTH = 4  # branches of a prompt from which on gathering the winner's cells pays


class Runtime:
    """One context with its books. Every change of native sequences goes through here, so that
    ledger and cache never disagree."""

    def __init__(self, model: NativeModel, strategy: Strategy) -> None:
        self.model = model
        self.context: Any = model.context
        self.memory: Any = model.memory
        self.vocabulary = model.vocabulary
        self.n_vocab = model.vocabulary.n_tokens
        self.batch = Batch(model.n_batch)
        self.candidates = Candidates(self.n_vocab)
        self.cached: list[Cached] = []  # least recently used first
        self.trunks: dict[int, Trunk] = {}
        self.last_width = 0  # branches of a prompt in the last round, at most
        self._n_handles = 0
        sharing = sharing_of(
            strategy,
            unified=model.unified,
            has_attention=not model.is_recurrent or model.is_hybrid,
        )
        self.ledger = CellLedger(model.n_cells, model.n_seq_max, sharing)
        self.strategy = strategy
        self._branching = BranchRollback(self.memory)
        lib = native()
        self._last: Callable[[Any, int], int] = lib.llama_memory_seq_pos_max
        self._remove, self._logits = lib.llama_memory_seq_rm, lib.llama_get_logits_ith

    @property
    def lends(self) -> bool:
        """Whether an only branch is drawn in its trunk's sequence: where a branch would copy the
        whole of it, and its end can be cut off again."""
        model = self.model
        cuts = not (model.is_recurrent or model.is_hybrid)
        return cuts and not model.unified and self.strategy is Strategy.BRANCH

    @property
    def scatters(self) -> bool:
        """Whether the last round left winners' cells scattered, and they can be gathered: in a
        cache that branches share, of full attention layers only."""
        model = self.model
        whole = not (model.is_recurrent or model.is_hybrid or model.n_swa)
        shared = self.ledger.sharing is Sharing.SHARED
        return whole and shared and self.last_width >= SCATTERING_WIDTH

    def new_handle(self) -> int:
        """A number that names a trunk or a branch, larger than all before it."""
        self._n_handles += 1
        return self._n_handles

    # -- sequences ---------------------------------------------------------------------------

    def drop_seq(self, seq: int) -> None:
        """Remove a whole sequence, which never fails, and free its id."""
        self._remove(self.memory, seq, -1, -1)
        self.ledger.release_seq(seq)

    def cut(self, seq: int, n_decoded: int, n_kept: int) -> bool:
        """Remove the decoded tokens from `n_kept` on; False, with the sequence emptied, where
        the model's state cannot be cut."""
        if self._remove(self.memory, seq, n_kept, -1):
            self.ledger.hold(seq, n_kept - n_decoded)
            return True
        self._remove(self.memory, seq, -1, -1)
        self.ledger.hold(seq, -n_decoded)
        return False

    def n_in(self, seq: int) -> int:
        """Tokens in a sequence, by the cache itself."""
        return self._last(self.memory, seq) + 1

    def take_back(self, seq: int, n_kept: int) -> None:
        """Remove what a sequence holds from `n_kept` on, of which the books know nothing."""
        self._remove(self.memory, seq, n_kept, -1)

    def fork(self, trunk: Trunk, branches: Sequence[Branch]) -> int:
        """Give branches their sequences; returns how many got one, in order: fewer only where
        the cache has no room after all."""
        if self.strategy is Strategy.SNAPSHOT and branches:
            self._stow(trunk)
        self._call_in(trunk)
        for n_done, branch in enumerate(branches):
            seq = self.ledger.take_seq()
            if trunk.seq >= 0:
                self._branching.fork(trunk.seq, seq)
            elif not load_sequence(self.context, seq, trunk.saved):
                self.drop_seq(seq)
                return n_done
            branch.seq = seq
            self.ledger.fork(seq, trunk.n_decoded)
        return len(branches)

    def lend(self, trunk: Trunk, branch: Branch) -> None:
        """Let a branch be drawn in its trunk's sequence. A proposal that holds it gives it up,
        and is decoded again, all its tokens at once, if it is the one that is committed."""
        self._call_in(trunk)
        branch.seq = trunk.seq

    def _call_in(self, trunk: Trunk) -> None:
        for branch in trunk.branches.values():
            if branch.borrows:
                self.park(branch)

    def close_ranks(self, trunks: Sequence[Trunk]) -> None:
        """Move trunks from high streams into low free ones: llama.cpp computes streams together
        only where their numbers follow on one another."""
        for trunk in sorted(trunks, key=lambda each: -each.seq):
            free = self.ledger.lowest_free_seq
            if free is None or free > trunk.seq:
                return
            old, trunk.seq = trunk.seq, self.ledger.take_seq()
            self._branching.fork(old, trunk.seq)
            for branch in trunk.branches.values():
                if branch.seq == old:
                    branch.seq = trunk.seq
            self.drop_seq(old)

    def _stow(self, trunk: Trunk) -> None:
        """Move a trunk's state to host memory."""
        if trunk.seq >= 0:
            trunk.saved = save_sequence(self.context, trunk.seq)
            self.drop_seq(trunk.seq)
            trunk.seq = -1

    def settle(self, trunk: Trunk) -> None:
        """Give a trunk a sequence again, with its saved state if it has one."""
        if trunk.seq >= 0:
            return
        seq = self.ledger.take_seq()
        if trunk.saved is not None and not load_sequence(self.context, seq, trunk.saved):
            self.drop_seq(seq)
            raise OutOfCellsError(
                f"no room to restore {trunk.n_decoded} tokens in a cache of "
                f"{self.ledger.n_cells} cells: raise --n-ctx or draw fewer prompts at once"
            )
        self.ledger.hold(seq, trunk.n_decoded)
        trunk.seq, trunk.saved = seq, None

    def park(self, branch: Branch) -> None:
        """Give up a branch's cells; it stays valid and is decoded again if it is committed."""
        if branch.borrows:
            self.cut(
                branch.held_seq, branch.trunk.n_decoded + branch.n_decoded, branch.trunk.n_decoded
            )
        elif branch.seq is not None:
            self.drop_seq(branch.seq)
        branch.seq = None
        branch.n_decoded, branch.logits = 0, None

    def promote(self, trunk: Trunk, branch: Branch) -> None:
        """The branch's sequence becomes the trunk's; nothing is copied."""
        if branch.seq is None:
            return
        if branch.borrows:
            branch.seq = None
            return
        if trunk.seq >= 0:
            self._remove(self.memory, trunk.seq, -1, -1)
        self.ledger.succeed(branch.seq, trunk.seq)
        trunk.seq, branch.seq, trunk.saved = branch.seq, None, None

    def shorten(self, trunk: Trunk) -> None:
        """Cut from the cache what is no longer among a trunk's tokens, and where the logits
        after the last of them are unknown that one too, to be decoded again."""
        n_kept = len(trunk.token_ids) - int(trunk.logits is None)
        if trunk.n_decoded <= n_kept:
            return
        whole = trunk.seq >= 0 and self.cut(trunk.seq, trunk.n_decoded, n_kept)
        trunk.n_decoded = n_kept if whole else 0
        trunk.saved = None

    def forget(self, trunk: Trunk) -> None:
        """Free what a trunk holds."""
        if trunk.seq >= 0:
            self.drop_seq(trunk.seq)
            trunk.seq = -1
        trunk.saved = None

    def remember(self, prompt: Cached) -> None:
        """Keep a closed prompt's cells; the oldest of too many go."""
        self.cached.append(prompt)
        if len(self.cached) > MAX_CACHED:
            self.drop_seq(self.cached.pop(0).seq)

    # -- room --------------------------------------------------------------------------------

    def evict(self) -> bool:
        """Free cells that only save time: the oldest cached prompt, else the oldest proposal of
        an earlier round. False if there are none."""
        if self.cached:
            self.drop_seq(self.cached.pop(0).seq)
            return True
        idle = [
            branch
            for trunk in self.trunks.values()
            for branch in trunk.branches.values()
            if branch.seq is not None and not branch.borrows
        ]
        if not idle:
            return False
        self.park(min(idle, key=lambda branch: branch.handle))
        return True

    # -- decoding ----------------------------------------------------------------------------

    def logits(self, at: int) -> Logits:
        """A view of the logits of batch entry `at`, valid until the next decode."""
        row = self._logits(self.context, at)
        return np.ctypeslib.as_array(
            ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (self.n_vocab,)
        )

    def catch_up(self, trunks: Sequence[Trunk]) -> None:
        """Decode what trunks have not decoded yet and note the logits after their last token.

        Raises OutOfCellsError if the cache has no room; chunks decoded before stay decoded.
        """
        waiting = [trunk for trunk in trunks if trunk.logits is None]
        try:
            for trunk in waiting:
                self.settle(trunk)
            if self.lends:
                waiting.sort(key=lambda trunk: trunk.seq)  # a batch of streams goes by number
            while waiting:
                self._decode_chunk(waiting)
                waiting = [trunk for trunk in waiting if trunk.logits is None]
        except BaseException:
            # the cache may hold more than the books say: go back to what they do say
            for trunk in waiting:
                if trunk.seq >= 0 and not self._remove(self.memory, trunk.seq, trunk.n_decoded, -1):
                    self.cut(trunk.seq, trunk.n_decoded, 0)
                    trunk.n_decoded = 0
            raise

    def _decode_chunk(self, waiting: Sequence[Trunk]) -> None:
        """Decode as many waiting tokens as one batch takes, the first trunks first."""
        n = 0
        taken: list[tuple[Trunk, int]] = []
        last: dict[int, Trunk] = {}
        for trunk in waiting:
            n_take = min(trunk.n_pending, self.batch.capacity - n)
            for place in range(trunk.n_decoded, trunk.n_decoded + n_take):
                is_last = place + 1 == len(trunk.token_ids)
                self.batch.put(n, trunk.token_ids[place], place, trunk.seq, logits=is_last)
                if is_last:
                    last[n] = trunk
                n += 1
            taken.append((trunk, n_take))
        if not self.batch.decode(self.context, n):
            raise OutOfCellsError(
                f"no room for {n} tokens in a cache of {self.ledger.n_cells} cells, "
                f"{self.ledger.n_held} of them held: raise --n-ctx or lower --width"
            )
        for trunk, n_take in taken:
            trunk.n_decoded += n_take
            self.ledger.hold(trunk.seq, n_take)
        for at, trunk in last.items():
            trunk.logits = self.logits(at).copy()
