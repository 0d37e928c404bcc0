"""What a language model makes of each token of a text: its last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stars_local.core.errors import ModelError
from stars_local.llama.library import native
from stars_local.llama.window import WindowModel, rows_at


class StatesModel(WindowModel):
    """A model file that gives the hidden states of the tokens of a window."""

    def __init__(
        self, path: Path, *, window: int, n_threads: int = 0, n_gpu_layers: int = -1
    ) -> None:
        super().__init__(path, window=window, n_threads=n_threads, n_gpu_layers=n_gpu_layers)
        lib, context = native(), self._native.context
        lib.llama_set_embeddings(context, True)
        self._width: int = lib.llama_model_n_embd_out(lib.llama_get_model(context))

    def states(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The last layer's normalised states, of shape (len(tokens), width).

        A view, good until the next call. Raises ModelError for no token or more than the window,
        or if the file changed or vanished.
        """
        if not 1 <= len(tokens) <= self.window:
            raise ModelError(f"{len(tokens)} tokens, where 1 to {self.window} were promised")
        self._decode(tokens, 0)
        rows = native().llama_get_embeddings(self._native.context)
        if not rows:
            path = self._native.path
            raise ModelError(f"{path}: llama.cpp gives no states of this model: use another")
        return rows_at(rows, len(tokens), self._width)
