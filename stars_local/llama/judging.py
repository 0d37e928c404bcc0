"""What judges ask of a language model: how likely is this text, and which word comes next?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stars_local.core.errors import ModelError
from stars_local.core.records import ModelInfo, Prompt, Sampling
from stars_local.llama.engine import LlamaModel
from stars_local.llama.logits import LogitsModel, log_softmax
from stars_local.llama.window import MAX_WINDOW

_N_CTX = 4096
_CHUNK = MAX_WINDOW // 2


class NextWords:
    """The log-probability that a model begins its answer with a word, by its own template.

    A word counts with and without a space before it, by its first token; words that begin with
    the same token cannot be told apart and are a ModelError.
    """

    def __init__(self, path: Path, *, n_ctx: int = _N_CTX, n_threads: int = 0) -> None:
        self._model = LlamaModel(path, n_ctx=n_ctx, n_threads=n_threads, n_seq_max=2)

    @property
    def info(self) -> ModelInfo:
        """Identity of the file."""
        return self._model.info

    def next_words(self, prompt: Prompt, words: Sequence[str]) -> list[float]:
        """A natural logarithm a word, from one pass over the prompt.

        Raises PromptTooLongError where the prompt does not fit into the context.
        """
        tokens = [self._first_tokens(prompt, word) for word in words]
        if sum(map(len, tokens)) != len(set().union(*tokens)):
            raise ModelError(
                f"{self.info.path}: {' and '.join(words)} begin with the same token: "
                "use another model as a judge"
            )
        opened = self._model.open(prompt, Sampling())
        try:
            logprobs = log_softmax(self._model.next_logits(opened.trunk)[None, :])[0]
        finally:
            self._model.close(opened.trunk)
        return [float(np.logaddexp.reduce(logprobs[sorted(each)])) for each in tokens]

    def _first_tokens(self, prompt: Prompt, word: str) -> set[int]:
        bare = self._model.encode(prompt)
        found = set()
        for text in (word, f" {word}"):
            ids = self._model.encode(dataclasses.replace(prompt, prefill=text))
            after = ids[len(bare) :]
            # " A" may be a lone space and then "A": a space alone says nothing of the word
            if ids[: len(bare)] == bare and (len(after) == 1 or text == word):
                found.add(after[0])
        if not found:
            raise ModelError(
                f"{self.info.path}: {word!r} melts into the end of the prompt: "
                "use another model as a judge"
            )
        return found

    def unload(self) -> None:
        """Free the model."""
        self._model.unload()


class TextLikelihood:
    """The log-probabilities of a response's tokens, each after the prompt and those before it.

    Where both have more than `MAX_WINDOW` tokens, a token is predicted from at least the 255
    before it.
    """

    def __init__(self, path: Path, *, n_threads: int = 0) -> None:
        self._model = LogitsModel(path, window=MAX_WINDOW, n_threads=n_threads)

    @property
    def info(self) -> ModelInfo:
        """Identity of the file."""
        return self._model.info

    def logprobs(self, prompt: Prompt, response: str) -> list[float]:
        """Natural logarithms, one a token; the end of the answer is not among them."""
        bare = self._model.encode(dataclasses.replace(prompt, prefill=""))
        ids = self._model.encode(dataclasses.replace(prompt, prefill=response))
        same = next((i for i, (a, b) in enumerate(zip(bare, ids, strict=False)) if a != b), None)
        place = max(1, min(len(bare), len(ids)) if same is None else same)
        step = len(ids) if len(ids) <= MAX_WINDOW else _CHUNK
        found: list[float] = []
        while place < len(ids):
            end = min(len(ids), place + step)
            begin = max(0, end - 1 - MAX_WINDOW)
            rows = self._model.logits(ids[begin : end - 1], place - 1 - begin)
            values = log_softmax(rows)
            found += values[np.arange(end - place), ids[place:end]].tolist()
            place = end
        return found

    def unload(self) -> None:
        """Free the model."""
        self._model.close()
