"""All next-token logits of a text, window by window: for measuring, not for drawing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stars_local.core.records import Prompt
from stars_local.llama.library import native
from stars_local.llama.template import render
from stars_local.llama.window import WindowModel, rows_at


class LogitsModel(WindowModel):
    """A model file that gives logits at the places of a window."""

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt by the model's own chat template, its prefill included."""
        vocabulary = self._native.vocabulary
        pieces = render(
            prompt,
            self._native.chat_template,
            bos=vocabulary.special_text(vocabulary.bos),
            eos=vocabulary.special_text(vocabulary.eos),
        )
        return vocabulary.encode(pieces)

    @property
    def bos(self) -> int | None:
        """The token that every window begins with, None where the model wants none."""
        vocabulary = self._native.vocabulary
        return vocabulary.bos if vocabulary.adds_bos else None

    def vocabulary_digest(self) -> str:
        """A hash of all tokens in order: equal where two files have the same vocabulary."""
        lib, handle = native(), self._native.vocabulary.handle
        digest = hashlib.sha256()
        for token in range(self._native.vocabulary.n_tokens):
            piece: bytes = lib.llama_vocab_get_text(handle, token)
            digest.update(len(piece).to_bytes(4, "little") + piece)
        return digest.hexdigest()

    def logits(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]:
        """The logits after each of tokens[first:], given those before it.

        Shape (len(tokens) - first, n_vocab): a view, good until the next call. Raises ModelError
        for more tokens than the window, or if the file changed or vanished.
        """
        self._decode(tokens, first)
        rows = native().llama_get_logits(self._native.context)  # those asked for, in order
        return rows_at(rows, len(tokens) - first, self._native.vocabulary.n_tokens)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural logarithms of probabilities over the last axis, computed in double precision."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values
