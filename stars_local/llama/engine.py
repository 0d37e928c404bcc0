"""`LlamaModel`: the language-model port over llama.cpp.

    with LlamaModel("model.gguf") as model:
        opened = model.open(Prompt("1", text="Once upon a time"), Sampling())
        [(proposal,)] = model.propose([Order(opened.trunk, (Draw((0,), 32),), Boundary(32))])
        model.commit(opened.trunk, proposal)

One lock guards every call: two threads take turns, they never meet inside llama.cpp.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar, cast

from stars_local.core.boundaries import StopScanner
from stars_local.core.errors import ModelError, OutOfCellsError, PromptTooLongError
from stars_local.core.ports import Opened, Order
from stars_local.core.records import ModelInfo, Prompt, Proposal, Sampling
from stars_local.llama.branches import Branch, Cached, Trunk
from stars_local.llama.cells import Need
from stars_local.llama.drawing import Lot, Round
from stars_local.llama.grammar import check_grammar
from stars_local.llama.model import MAX_SEQUENCES, ContextParams, NativeModel
from stars_local.llama.rollback import Strategy
from stars_local.llama.runtime import Runtime
from stars_local.llama.sampler import Chain
from stars_local.llama.template import render

MAX_CACHED = 4  # closed prompts whose cells wait; every idle cell slows a unified cache

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _guarded(
    method: Callable[Concatenate[LlamaModel, _P], _R],
) -> Callable[Concatenate[LlamaModel, _P], _R]:
    """One caller at a time, and none after `unload`."""

    @functools.wraps(method)
    def guarded(self: LlamaModel, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._lock:
            if self._closed:
                raise ModelError(f"{self.info.name}: the model was closed: load it again")
            return method(self, *args, **kwargs)

    return cast("Callable[Concatenate[LlamaModel, _P], _R]", guarded)


class LlamaModel:
    """A GGUF file as a `LanguageModel`; see `ContextParams` for the numbers.

    strategy: "branch", "snapshot", or "auto" to let a probe choose; `strategy_reason` says why.
    Raises ModelError if the file is refused. `unload` it, or use it as a context manager.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_ctx: int = 0,
        n_threads: int = 0,
        n_gpu_layers: int = -1,
        n_seq_max: int = 64,
        strategy: str = "auto",
        unified: bool = True,
        loras: Mapping[str, float] | None = None,
    ) -> None:
        if not 1 < n_seq_max <= MAX_SEQUENCES:
            raise ModelError(
                f"n_seq_max is {n_seq_max}: a trunk and its branches need 2 to {MAX_SEQUENCES}"
            )
        self._lock = threading.RLock()
        self._closed = False
        self._next_handle = 0
        self._sampling: dict[int, Sampling] = {}
        params = ContextParams(
            n_ctx, n_seq_max, n_threads, n_gpu_layers, unified, {} if loras is None else loras
        )
        self._native = NativeModel(Path(path), params)
        self.strategy = Strategy.BRANCH if strategy == "auto" else Strategy(strategy)
        self.strategy_reason = "asked for"
        self._runtime = Runtime(self._native, self.strategy, unified=unified)

    # -- what it is --------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        """Identity of the model file and size of the context."""
        return self._native.info

    # -- the port ----------------------------------------------------------------------------

    @_guarded
    def open(self, prompt: Prompt, sampling: Sampling, stop: tuple[str, ...] = ()) -> Opened:
        """Prefill a prompt and return its trunk; see `LanguageModel.open`."""
        ids = self.encode(prompt)
        n_ctx = self._native.n_ctx
        if len(ids) >= n_ctx:
            raise PromptTooLongError(
                f"the prompt has {len(ids)} tokens and at least one must follow, n_ctx is {n_ctx}: "
                "shorten the prompt or raise --n-ctx"
            )
        if not ids:
            raise ModelError("the prompt has no tokens and the model no BOS: give some text")
        if sampling.grammar is not None:
            check_grammar(sampling.grammar)
        chain = Chain(sampling, self._native.vocabulary, ids)
        trunk: Trunk | None = None
        try:
            trunk = self._seat(ids, chain, StopScanner(stop))
            n_reused = trunk.n_decoded
            self._runtime.catch_up([trunk])
        except BaseException:
            chain.free()
            if trunk is not None:
                self._runtime.drop_seq(trunk.seq)
            raise
        self._runtime.trunks[trunk.id] = trunk
        self._sampling[trunk.id] = sampling
        return Opened(trunk.id, len(ids), n_reused)

    @_guarded
    def propose(self, orders: Sequence[Order]) -> list[tuple[Proposal, ...]]:
        """Draw the proposals of all orders together; see `LanguageModel.propose`."""
        lots = self._lots(orders)
        try:
            Round(self._runtime, lots).draw()
        except BaseException:
            for lot in lots:
                for branch in lot.branches:
                    self._discard(branch)
            raise
        for lot in lots:
            lot.trunk.branches.update((branch.handle, branch) for branch in lot.branches)
        return [tuple(branch.proposal() for branch in lot.branches) for lot in lots]

    @_guarded
    def commit(self, trunk: int, proposal: Proposal) -> None:
        """Make a proposal part of its trunk; every other proposal of the trunk is dropped."""
        state = self._trunk(trunk)
        winner = self._branch(state, proposal)
        del state.branches[winner.handle]
        for loser in state.branches.values():
            self._discard(loser)
        state.branches.clear()
        self._runtime.promote(state, winner)
        state.absorb(winner)
        n_kept = len(state.token_ids)
        if state.n_decoded > n_kept:
            whole = self._runtime.cut(state.seq, state.n_decoded, n_kept)
            state.n_decoded = n_kept if whole else 0

    @_guarded
    def reject(self, trunk: int, proposals: Sequence[Proposal]) -> None:
        """Drop these proposals; the trunk and its other proposals stay."""
        state = self._trunk(trunk)
        for branch in [self._branch(state, proposal) for proposal in proposals]:
            del state.branches[branch.handle]
            self._discard(branch)

    @_guarded
    def close(self, trunk: int, *, keep: bool = False) -> None:
        """Forget an open prompt and its proposals; with `keep` its cells stay for reuse."""
        state = self._trunk(trunk)
        del self._runtime.trunks[trunk], self._sampling[trunk]
        for branch in state.branches.values():
            self._discard(branch)
        state.chain.free()
        if not keep or state.n_decoded == 0:
            self._runtime.drop_seq(state.seq)
            return
        cached = self._runtime.cached
        cached.append(Cached(state.seq, state.token_ids[: state.n_decoded], state.logits))
        if len(cached) > MAX_CACHED:
            self._runtime.drop_seq(cached.pop(0).seq)

    # -- beyond the port ---------------------------------------------------------------------

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids that `open` prefills for a prompt."""
        vocabulary = self._native.vocabulary
        pieces = render(
            prompt,
            self._native.chat_template,
            bos=vocabulary.special_text(vocabulary.bos),
            eos=vocabulary.special_text(vocabulary.eos),
        )
        return vocabulary.encode(pieces)

    @_guarded
    def response_ids(self, trunk: int) -> tuple[int, ...]:
        """The committed tokens of an open prompt's response, those that a stop string took away
        left out: what a conversation keeps as `Message.token_ids`."""
        return self._trunk(trunk).response_ids

    def unload(self) -> None:
        """Free all native memory; every later call raises ModelError. Harmless when repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for trunk in self._runtime.trunks.values():
                trunk.chain.free()
                for branch in trunk.branches.values():
                    branch.chain.free()
            self._native.close()

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unload()

    # -- internals ---------------------------------------------------------------------------

    def _seat(self, ids: list[int], chain: Chain, scanner: StopScanner) -> Trunk:
        """A trunk for these tokens, on the cells of the cached prompt that shares most of them."""
        runtime, ledger = self._runtime, self._runtime.ledger
        self._check_room(len(ids))
        best = max(runtime.cached, key=lambda cached: cached.n_common(ids), default=None)
        if best is None or best.n_common(ids) == 0:
            while ledger.n_free_seqs == 0 or not ledger.has_room(len(ids)):
                runtime.evict()
            return Trunk(self._new_handle(), ledger.take_seq(), ids, len(ids), chain, scanner)
        runtime.cached.remove(best)
        trunk = Trunk(self._new_handle(), best.seq, ids, len(ids), chain, scanner)
        n_cached, n_common = len(best.token_ids), best.n_common(ids)
        if n_common == len(ids) == n_cached and best.logits is not None:
            trunk.n_decoded, trunk.logits = n_common, best.logits
            return trunk
        n_reused = min(n_common, len(ids) - 1)  # the last token's logits must be computed
        if n_reused == n_cached or runtime.cut(best.seq, n_cached, n_reused):
            trunk.n_decoded = n_reused
        while not ledger.has_room(trunk.n_pending):
            runtime.evict()
        return trunk

    def _check_room(self, n_tokens: int) -> None:
        """Raise OutOfCellsError, with nothing changed, if open prompts leave too little room."""
        ledger, trunks = self._runtime.ledger, self._runtime.trunks
        n_lasting = sum(ledger.held_by(trunk.seq) for trunk in trunks.values())
        if len(trunks) >= self._native.n_seq_max:
            raise OutOfCellsError(
                f"{len(trunks)} prompts are open and a context has {self._native.n_seq_max} "
                "sequences: close some, or raise n_seq_max"
            )
        if not ledger.would_fit(n_lasting + n_tokens):
            raise OutOfCellsError(
                f"the prompt needs {n_tokens} cells, open prompts hold {n_lasting} of "
                f"{ledger.n_cells}: open fewer prompts at once or raise --n-ctx"
            )

    def _lots(self, orders: Sequence[Order]) -> list[Lot]:
        """Plan a round: as many branches as there is room for, one an order at least."""
        runtime, ledger = self._runtime, self._runtime.ledger
        trunks = [self._trunk(order.trunk) for order in orders]
        needs = [
            Need(len(order.draws), len(trunk.token_ids), max(0, self._n_most(order, trunk) - 1))
            for order, trunk in zip(orders, trunks, strict=True)
        ]
        n_pending = sum(trunk.n_pending for trunk in trunks)
        wanted = [need.n_draws for need in needs]
        granted = ledger.allot(needs, n_pending)
        while granted != wanted and runtime.evict():
            granted = ledger.allot(needs, n_pending)
        if granted is None:
            raise OutOfCellsError(
                f"{len(orders)} proposals of up to {1 + max(need.n_new for need in needs)} tokens "
                f"need more than the {ledger.n_free_cells} free of {ledger.n_cells} cells and "
                f"{ledger.n_free_seqs} sequences: raise --n-ctx or draw fewer prompts at once"
            )
        return [
            self._lot(order, trunk, n)
            for order, trunk, n in zip(orders, trunks, granted, strict=True)
        ]

    def _lot(self, order: Order, trunk: Trunk, n: int) -> Lot:
        room = self._native.n_ctx - len(trunk.token_ids)
        branches = [
            Branch(
                self._new_handle(),
                trunk,
                trunk.chain.branch(draw),
                order.boundary,
                room,
                trunk.scanner,
                trunk.waiting,
            )
            for draw in order.draws[:n]
        ]
        return Lot(order, trunk, branches, self._sampling[trunk.id].logprobs)

    def _n_most(self, order: Order, trunk: Trunk) -> int:
        """The most tokens that a proposal of this order can have."""
        return min(order.boundary.max_tokens, self._native.n_ctx - len(trunk.token_ids))

    def _discard(self, branch: Branch) -> None:
        self._runtime.park(branch)
        branch.chain.free()

    def _new_handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def _trunk(self, trunk: int) -> Trunk:
        state = self._runtime.trunks.get(trunk)
        if state is None:
            raise ModelError(f"prompt {trunk} is not open: open it first")
        return state

    def _branch(self, trunk: Trunk, proposal: Proposal) -> Branch:
        branch = trunk.branches.get(proposal.handle)
        if branch is None:
            raise ModelError(f"proposal {proposal.handle} was dropped or never drawn: draw again")
        return branch
