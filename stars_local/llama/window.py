"""A model that reads whole texts in one batch, for measuring them: nothing is drawn."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stars_local.core.closing import Closing
from stars_local.core.errors import ModelError, UsageError
from stars_local.core.records import ModelInfo
from stars_local.llama.batch import Batch
from stars_local.llama.library import native
from stars_local.llama.model import ContextParams, NativeModel

MAX_WINDOW = 512  # decoded in one batch, as llama.cpp's own measurement does
_SEQUENCE = 0


class WindowModel(Closing):
    """A model file that reads windows of text; `close` frees it.

    window: tokens of the context, at most `MAX_WINDOW`. Raises ModelError if the file is refused.
    """

    def __init__(
        self, path: Path, *, window: int, n_threads: int = 0, n_gpu_layers: int = -1
    ) -> None:
        if not 1 <= window <= MAX_WINDOW:
            raise UsageError(f"a window of {window} tokens: give 1 to {MAX_WINDOW}")
        params = ContextParams(window, 1, n_threads, n_gpu_layers, n_outputs=window)
        self._native = NativeModel(path, params)
        self._batch = Batch(window)
        self.window = window

    @property
    def info(self) -> ModelInfo:
        """Identity of the file."""
        return self._native.info

    def tokenize(self, text: str) -> list[int]:
        """The token ids of a text; what looks like a control token in it is text."""
        return self._native.vocabulary.tokenize(text, control=False)

    def close(self) -> None:
        """Free the model; harmless when repeated."""
        self._native.close()

    def _decode(self, tokens: Sequence[int], first: int) -> None:
        """Read a text from the start, with outputs for tokens[first:].

        Raises ModelError for more tokens than the window, or if the file changed or vanished.
        """
        if len(tokens) > self.window:
            raise ModelError(f"{len(tokens)} tokens in a window of {self.window}: cut the text")
        model = self._native
        model.check_unchanged()
        if not model.path.exists():
            raise ModelError(f"{model.path} is gone: put it back and start again")
        native().llama_memory_clear(model.memory, True)
        for place, token in enumerate(tokens):
            self._batch.put(place, token, place, _SEQUENCE, logits=place >= first)
        if not self._batch.decode(model.context, len(tokens)):
            raise ModelError(f"{model.path}: no room for {len(tokens)} tokens: lower --window")


def rows_at(pointer: Any, n_rows: int, width: int) -> NDArray[np.float32]:
    """Floats in native memory as an array of shape (n_rows, width): a view."""
    floats = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(floats, (n_rows, width))
