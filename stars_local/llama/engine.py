"""`LlamaModel`: the language-model port over llama.cpp.

    with LlamaModel("model.gguf") as model:
        opened = model.open(Prompt("1", text="Once upon a time"), Sampling())
        [(proposal,)] = model.propose([Order(opened.trunk, (Draw((0,), 32),), Boundary(32))])
        model.commit(opened.trunk, proposal)

One lock guards every call: two threads take turns, they never meet inside llama.cpp.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stars_local.core.boundaries import StopScanner
from stars_local.core.errors import ModelError, PromptTooLongError
from stars_local.core.ports import Opened, Order
from stars_local.core.records import ModelInfo, Prompt, Proposal, Sampling
from stars_local.llama import ahead, planning
from stars_local.llama.branches import Branch, Cached, Trunk
from stars_local.llama.drawing import Round
from stars_local.llama.gathering import gather
from stars_local.llama.grammar import check_grammar
from stars_local.llama.guard import guarded
from stars_local.llama.model import ContextParams, NativeModel
from stars_local.llama.probe import Choice, choose
from stars_local.llama.rollback import Strategy, save_sequence
from stars_local.llama.runtime import Runtime
from stars_local.llama.sampler import Chain
from stars_local.llama.saved_state import Origin, pack, unpack
from stars_local.llama.template import forges_turn, render


class LlamaModel:
    """A GGUF file as a `LanguageModel`; see `ContextParams` for the numbers.

    strategy: "branch", "snapshot", or "auto" to let a probe choose; `strategy_reason` says why.
    lends: whether a prompt's only attempt is drawn in the prompt's own sequence. Raises ModelError
    if the file is refused. `unload` it, or use it as a context manager.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_ctx: int = 0,
        n_threads: int = 0,
        n_gpu_layers: int = -1,
        n_seq_max: int = 0,
        n_seq_min: int = 0,
        strategy: str = "auto",
        unified: bool = True,
        loras: Mapping[str, float] | None = None,
        fused: bool | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._closed = False
        adapters = {} if loras is None else loras
        params = ContextParams(
            n_ctx, n_seq_max, n_threads, n_gpu_layers, unified, adapters, n_seq_min, fused
        )
        params.check()
        if strategy != "auto" and strategy not in set(Strategy):
            raise ModelError(f"strategy is {strategy!r}: give auto, branch or snapshot")
        self._native = NativeModel(Path(path), params)
        try:
            asked = strategy != "auto"
            choice = Choice(Strategy(strategy), "asked for") if asked else choose(self._native)
        except BaseException:
            self._native.close()
            raise
        self.strategy, self.strategy_reason = choice.strategy, choice.reason
        self._runtime = Runtime(self._native, self.strategy)
        self.lends, self.n_ctx_train = self._runtime.lends, self._native.n_ctx_train
        self._chat_template = self._native.chat_template
        self.attention, self.build = self._native.attention, self._native.build

    # -- what it is --------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        """Identity of the model file and size of the context."""
        return self._native.info

    # -- the port ----------------------------------------------------------------------------

    @guarded
    def open(self, prompt: Prompt, sampling: Sampling, stop: tuple[str, ...] = ()) -> Opened:
        """Prefill a prompt and return its trunk; see `LanguageModel.open`."""
        self._native.check_unchanged()
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
        runtime = self._runtime
        trunk = Trunk(
            runtime.new_handle(), ids, len(ids), chain, StopScanner(stop), sampling.logprobs
        )
        try:
            planning.seat(runtime, trunk)
            n_reused = trunk.n_decoded
            runtime.catch_up([trunk])
        except BaseException:
            chain.free()
            runtime.forget(trunk)
            raise
        runtime.trunks[trunk.id] = trunk
        return Opened(trunk.id, len(ids), n_reused)

    @guarded
    def propose(self, orders: Sequence[Order]) -> list[tuple[Proposal, ...]]:
        """Draw the proposals of all orders together; see `LanguageModel.propose`."""
        self._native.check_unchanged()
        lots = planning.lots(self._runtime, [(order, self._trunk(order.trunk)) for order in orders])
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

    @guarded
    def commit(self, trunk: int, proposal: Proposal) -> None:
        """Make a proposal part of its trunk; every other proposal of the trunk is dropped."""
        state = self._trunk(trunk)
        winner = state.branches.pop(self._branch(state, proposal).handle)
        for loser in state.branches.values():
            self._discard(loser)
        state.branches.clear()
        n_before = state.n_decoded
        self._runtime.promote(state, winner)
        state.absorb(winner)
        self._runtime.shorten(state)
        gather(self._runtime, state, n_before)

    @guarded
    def reject(self, trunk: int, proposals: Sequence[Proposal]) -> None:
        """Drop these proposals; the trunk and its other proposals stay."""
        state = self._trunk(trunk)
        for branch in [self._branch(state, proposal) for proposal in proposals]:
            del state.branches[branch.handle]
            self._discard(branch)

    @guarded
    def close(self, trunk: int, *, keep: bool = False) -> None:
        """Forget an open prompt and its proposals; with `keep` its cells stay for reuse."""
        state = self._trunk(trunk)
        del self._runtime.trunks[trunk]
        for branch in state.branches.values():
            self._discard(branch)
        state.chain.free()
        ledger = self._runtime.ledger
        if keep and state.n_decoded > 0 and state.seq < 0:
            keep = ledger.n_free_seqs > 0 and ledger.has_room(state.n_decoded)
        if not keep or state.n_decoded == 0:
            self._runtime.forget(state)
            return
        self._runtime.settle(state)
        self._runtime.remember(Cached(state.seq, state.token_ids[: state.n_decoded], state.logits))

    # -- beyond the port ---------------------------------------------------------------------

    @guarded
    def look_ahead(self, trunk: int) -> None:
        """Decode the last tokens of the proposals now; see `core.overlap.LooksAhead`."""
        ahead.look_ahead(self._runtime, self._trunk(trunk))

    @guarded
    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids that `open` prefills for a prompt."""
        vocabulary = self._native.vocabulary
        pieces = render(
            prompt,
            self._chat_template,
            bos=vocabulary.special_text(vocabulary.bos),
            eos=vocabulary.special_text(vocabulary.eos),
        )
        return vocabulary.encode(pieces)

    @guarded
    def response_ids(self, trunk: int) -> tuple[int, ...]:
        """The committed tokens of a response, without those that a stop string took away."""
        return self._trunk(trunk).response_ids

    @guarded
    def message_ids(self, trunk: int) -> tuple[int, ...] | None:
        """For `Message.token_ids`: `response_ids`, None where a stop string cut one in two."""
        state = self._trunk(trunk)
        return None if state.splits_token else state.response_ids

    @guarded
    def says(self, token_ids: Sequence[int], text: str) -> bool:
        """Whether tokens from a file say just this text; see `Vocabulary.says`."""
        forges = forges_turn(text, self._chat_template)
        return not forges and self._native.vocabulary.says(token_ids, text)

    @guarded
    def next_logits(self, trunk: int) -> NDArray[np.float32]:
        """The logits after an open prompt and its committed response: n_vocab of them, a copy."""
        state = self._trunk(trunk)
        while not self._runtime.ledger.has_room(state.n_pending) and self._runtime.evict():
            pass
        self._runtime.catch_up([state])
        return state.known_logits.copy()

    @contextlib.contextmanager
    def borrowed_context(self) -> Iterator[Any]:
        """The bare native context, emptied, for measuring; give it back as empty."""
        with self._lock:
            if self._closed or self._runtime.trunks:
                raise ModelError("the context is in use: close the open prompts first")
            while self._runtime.evict():
                pass
            yield self._native.context

    @property
    def chat_template(self) -> str | None:
        """The model's own chat template (Jinja), None for a base model."""
        return self._chat_template

    @property
    def on_gpu(self) -> bool:
        """Whether layers may be on a GPU."""
        return self._native.on_gpu

    @property
    def n_threads(self) -> int:
        """Threads that decode."""
        return self._native.n_threads

    @property
    def capacity(self) -> tuple[int, int]:
        """Cells and sequences of the whole context."""
        return self._native.n_cells, self._native.n_seq_max

    @guarded
    def save_state(self, trunk: int | None = None) -> bytes:
        """The KV state of an open prompt, or of the prompt closed with `keep` last, with its
        token ids. Good for the same model file, adapters and build only."""
        if trunk is not None:
            state = self._trunk(trunk)
            self._runtime.settle(state)
            seq, ids = state.seq, state.token_ids[: state.n_decoded]
        elif self._runtime.cached:
            seq, ids = self._runtime.cached[-1].seq, self._runtime.cached[-1].token_ids
        else:
            raise ModelError("no prompt is cached: nothing to save")
        return pack(self._origin(), ids, bytes(save_sequence(self._native.context, seq)))

    @guarded
    def load_state(self, data: bytes) -> int:
        """Put a saved state among the cached prompts, for `open` to reuse; returns its tokens.

        Raises ModelError if it is damaged or belongs to another file, adapters or build, and
        OutOfCellsError if there is no room; the model is unchanged after either.
        """
        ids, state = unpack(data, self._origin())
        if len(ids) > self._native.n_ctx or max(ids) >= self.info.n_vocab or min(ids) < 0:
            raise ModelError(
                f"the saved state has {len(ids)} tokens, n_ctx is {self._native.n_ctx}: "
                "raise --n-ctx"
            )
        planning.restore(self._runtime, ids, state)
        return len(ids)

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

    def __exit__(self, *_: object) -> None:
        self.unload()

    def _origin(self) -> Origin:
        return Origin(self.info.sha256, self._native.adapters, self.build)

    def _discard(self, branch: Branch) -> None:
        self._runtime.park(branch)
        branch.chain.free()

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
