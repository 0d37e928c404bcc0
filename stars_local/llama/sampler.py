"""Sampler chains: how a token is drawn from logits, as state that branches with the tokens.

A chain is penalties, grammar, a ban on end tokens where they are to be ignored, top-k, top-p,
min-p, temperature, and at the end the draw itself: greedy at temperature 0, else a `dist`
sampler with the seed of the attempt. A trunk's chain has no draw at its end; a branch clones it
and appends its own, so that rejected tokens are never remembered and no two attempts share
randomness.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stars_local.core.errors import GrammarError
from stars_local.core.ports import Draw
from stars_local.core.records import Sampling
from stars_local.llama.library import forget_log, last_words, native
from stars_local.llama.tokens import Vocabulary

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Candidates:
    """A reusable candidate array, for drawing from logits that are not the context's own."""

    def __init__(self, n_vocab: int) -> None:
        lib = native()
        self._array = np.zeros(n_vocab, dtype=_CANDIDATE)
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._data = ctypes.cast(self._array.ctypes.data, ctypes.POINTER(lib.llama_token_data))
        self._view = lib.llama_token_data_array(self._data, n_vocab, -1, False)

    def draw(self, chain: Any, logits: NDArray[np.float32]) -> int | None:
        """The token that a native chain selects, not accepted yet; None if it allows none."""
        self._array["id"] = self._ids
        self._array["logit"] = logits
        self._view.size = len(self._ids)
        self._view.selected = -1
        self._view.sorted = False
        native().llama_sampler_apply(chain, ctypes.byref(self._view))
        at = self._view.selected
        if at < 0 or not np.isfinite(self._view.data[at].logit):
            return None
        return int(self._view.data[at].id)


class Chain:
    """A trunk's sampler state: everything but the draw.

    prompt_ids: what the penalties have already seen. The grammar governs the drawn text only.
    """

    def __init__(
        self, sampling: Sampling, vocabulary: Vocabulary, prompt_ids: Sequence[int]
    ) -> None:
        self.greedy = sampling.temperature <= 0
        self.constrained = sampling.grammar is not None
        self.handle: Any = None
        lib = native()
        self._n_vocab = vocabulary.n_tokens
        self.handle = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        try:
            self._fill(sampling, vocabulary, prompt_ids)
        except BaseException:
            self.free()
            raise

    def accept(self, token: int) -> None:
        """Let penalties and grammar see a token that was drawn."""
        native().llama_sampler_accept(self.handle, token)

    def branch(self, draw: Draw) -> BranchChain:
        """A copy that draws with an attempt's own randomness."""
        return BranchChain(self, draw)

    def free(self) -> None:
        """Free the native chain; harmless when repeated."""
        if self.handle is not None:
            native().llama_sampler_free(self.handle)
            self.handle = None

    def _fill(self, sampling: Sampling, vocabulary: Vocabulary, prompt_ids: Sequence[int]) -> None:
        lib, add = native(), native().llama_sampler_chain_add
        if sampling.repeat_penalty != 1.0 and sampling.repeat_last_n > 0:
            add(
                self.handle,
                lib.llama_sampler_init_penalties(
                    self._n_vocab, sampling.repeat_last_n, sampling.repeat_penalty, 0.0, 0.0
                ),
            )
            for token in prompt_ids[-sampling.repeat_last_n :]:
                self.accept(token)
        if sampling.grammar is not None:
            add(self.handle, _grammar(vocabulary, sampling.grammar))
        if sampling.ignore_eog:
            add(self.handle, self._never(vocabulary.end_ids()))
        if self.greedy:
            return
        if 0 < sampling.top_k < self._n_vocab:
            add(self.handle, lib.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1.0:
            add(self.handle, lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0.0:
            add(self.handle, lib.llama_sampler_init_min_p(sampling.min_p, 1))
        if sampling.temperature != 1.0:
            add(self.handle, lib.llama_sampler_init_temp(sampling.temperature))

    def _never(self, token_ids: Sequence[int]) -> Any:
        """A sampler under which these tokens cannot be drawn."""
        lib = native()
        biases = (lib.llama_logit_bias * len(token_ids))(
            *(lib.llama_logit_bias(token, -math.inf) for token in token_ids)
        )
        return lib.llama_sampler_init_logit_bias(self._n_vocab, len(token_ids), biases)


class BranchChain:
    """A branch's sampler state: its trunk's, and a draw seeded for the attempt.

    `seed_for` must be called with every token's place before it is drawn: at the places that
    the attempt's `Draw` names, a fresh draw takes over.
    """

    def __init__(self, trunk: Chain, draw: Draw) -> None:
        lib = native()
        self.constrained = trunk.constrained
        self._greedy = trunk.greedy
        self._draw = draw
        self._next_reseed = 0
        self.handle: Any = lib.llama_sampler_clone(trunk.handle)
        self._has_draw = False
        self._remove, self._n = lib.llama_sampler_chain_remove, lib.llama_sampler_chain_n
        if self._greedy:
            lib.llama_sampler_chain_add(self.handle, lib.llama_sampler_init_greedy())
            self._has_draw = True

    def seed_for(self, place: int) -> None:
        """Append the draw of token number `place` of the segment, if a fresh one is due."""
        if place < self._next_reseed or self._greedy:
            return
        lib = native()
        self._drop_draw()
        at = place // self._draw.reseed_every
        is_last = at + 1 >= len(self._draw.seeds)
        self._next_reseed = sys.maxsize if is_last else place + self._draw.reseed_every
        lib.llama_sampler_chain_add(self.handle, lib.llama_sampler_init_dist(self._draw.seeds[at]))
        self._has_draw = True

    def accept(self, token: int) -> None:
        """Let penalties and grammar see a drawn token."""
        native().llama_sampler_accept(self.handle, token)

    def give_to(self, trunk: Chain) -> None:
        """Make this state the trunk's; the branch has none afterwards."""
        self._drop_draw()
        trunk.free()
        trunk.handle, self.handle = self.handle, None

    def free(self) -> None:
        """Free the native chain; harmless when repeated."""
        if self.handle is not None:
            native().llama_sampler_free(self.handle)
            self.handle = None

    def _drop_draw(self) -> None:
        if self._has_draw:
            native().llama_sampler_free(self._remove(self.handle, self._n(self.handle) - 1))
            self._has_draw = False


def _grammar(vocabulary: Vocabulary, gbnf: str) -> Any:
    """A grammar sampler. Raises GrammarError where the library refuses the grammar."""
    forget_log()
    sampler = native().llama_sampler_init_grammar(vocabulary.handle, gbnf.encode(), b"root")
    if not sampler:
        raise GrammarError(
            f"the grammar cannot be used ({last_words() or 'no reason given'}): check its rules"
        )
    return sampler
