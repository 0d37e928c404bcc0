"""All next-token logits of a text, window by window: for measuring, not for drawing."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from stars_local.core.errors import ModelError, UsageError
from stars_local.core.records import ModelInfo, Prompt
from stars_local.llama.batch import Batch
from stars_local.llama.library import native
from stars_local.llama.model import ContextParams, NativeModel
from stars_local.llama.template import render

MAX_WINDOW = 512  # decoded in one batch, as llama.cpp's own measurement does
_SEQUENCE = 0


class LogitsModel:
    """A model file that gives logits at the places of a window; `close` frees it.

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
        if len(tokens) > self.window:
            raise ModelError(f"{len(tokens)} tokens in a window of {self.window}: cut the text")
        model = self._native
        model.check_unchanged()
        if not model.path.exists():
            raise ModelError(f"{model.path} is gone: put it back and start again")
        lib = native()
        lib.llama_memory_clear(model.memory, True)
        for place, token in enumerate(tokens):
            self._batch.put(place, token, place, _SEQUENCE, logits=place >= first)
        if not self._batch.decode(model.context, len(tokens)):
            raise ModelError(f"{model.path}: no room for {len(tokens)} tokens: lower --window")
        rows = lib.llama_get_logits(model.context)  # those asked for, one after the other
        shape = (len(tokens) - first, model.vocabulary.n_tokens)
        return np.ctypeslib.as_array(ctypes.cast(rows, ctypes.POINTER(ctypes.c_float)), shape)

    def close(self) -> None:
        """Free the model; harmless when repeated."""
        self._native.close()

    def __enter__(self) -> LogitsModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural logarithms of probabilities over the last axis, computed in double precision."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values
