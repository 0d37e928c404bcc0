"""What a language model makes of each token of a text: its last hidden states."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from stars_local.core.errors import ModelError, UsageError
from stars_local.core.records import ModelInfo
from stars_local.llama.batch import Batch
from stars_local.llama.library import native
from stars_local.llama.model import ContextParams, NativeModel

MAX_TOKENS = 512  # decoded in one batch
_SEQUENCE = 0


class StatesModel:
    """A model file that gives the hidden states of a text; `close` frees it.

    n_tokens: of the longest text, at most `MAX_TOKENS`. Raises ModelError if the file is refused.
    """

    def __init__(
        self, path: Path, *, n_tokens: int, n_threads: int = 0, n_gpu_layers: int = -1
    ) -> None:
        if not 1 <= n_tokens <= MAX_TOKENS:
            raise UsageError(f"texts of {n_tokens} tokens: give 1 to {MAX_TOKENS}")
        params = ContextParams(n_tokens, 1, n_threads, n_gpu_layers, n_outputs=n_tokens)
        self._native = NativeModel(path, params)
        lib = native()
        lib.llama_set_embeddings(self._native.context, True)
        self._batch = Batch(n_tokens)
        self._width: int = lib.llama_model_n_embd_out(lib.llama_get_model(self._native.context))
        self._n_tokens = n_tokens

    @property
    def info(self) -> ModelInfo:
        """Identity of the file."""
        return self._native.info

    def tokenize(self, text: str) -> list[int]:
        """The token ids of a text; what looks like a control token in it is text."""
        return self._native.vocabulary.tokenize(text, control=False)

    def states(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The last layer's normalised states, of shape (len(tokens), width).

        A view, good until the next call. Raises ModelError for no token, or more than promised.
        """
        if not 1 <= len(tokens) <= self._n_tokens:
            raise ModelError(f"{len(tokens)} tokens, where 1 to {self._n_tokens} were promised")
        model, lib = self._native, native()
        model.check_unchanged()
        lib.llama_memory_clear(model.memory, True)
        for place, token in enumerate(tokens):
            self._batch.put(place, token, place, _SEQUENCE, logits=True)
        if not self._batch.decode(model.context, len(tokens)):
            raise ModelError(f"{model.path}: no room for {len(tokens)} tokens")
        rows = lib.llama_get_embeddings(model.context)
        if not rows:
            raise ModelError(f"{model.path}: llama.cpp gives no states of this model: use another")
        shape = (len(tokens), self._width)
        return np.ctypeslib.as_array(ctypes.cast(rows, ctypes.POINTER(ctypes.c_float)), shape)

    def close(self) -> None:
        """Free the model; harmless when repeated."""
        self._native.close()

    def __enter__(self) -> StatesModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
