"""A teacher of preferences: a linear layer on the frozen states of a larger language model.

For a pair with features u (of the better response) and v, standardised on all texts,

    P(better) = sigmoid(w . (u - v) / t)

w by logistic regression with an L2 penalty, which is chosen, like the temperature t, on pairs
whose prompts took no part: five folds by prompt. No gradient passes through the language model,
so any GGUF file will do, and an hour of work is minutes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stars_local.core.errors import DataError
from stars_local.preferences.accuracy import PairAccuracy
from stars_local.preferences.pairs import Pair
from stars_local.preferences.text_format import render_prompt, render_response
from stars_local.training.batches import split_key

N_FOLDS = 5
PENALTIES = (100.0, 300.0, 1000.0, 3000.0, 10000.0)
_TEMPERATURES = np.geomspace(0.1, 10.0, 81)
_MAX_STEPS = 50
Array = NDArray[np.float64]


class States(Protocol):
    """What a language model makes of a text."""

    def tokenize(self, text: str) -> list[int]:
        """The token ids of a text."""
        ...

    def states(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """A row for each token."""
        ...


@dataclass(frozen=True)
class Teacher:
    """weights: of standardised features, the temperature in them. margins: of the labelled pairs
    in their order, each from the folds that its prompt took no part in. accuracy: of these."""

    weights: Array
    spread: Array
    penalty: float
    temperature: float
    margins: Array
    accuracy: PairAccuracy

    def margin(self, better: Array, worse: Array) -> float:
        """Log-odds that the first of two responses, as features, is the better one."""
        return float((better - worse) / self.spread @ self.weights)


def features(
    model: States, pair: Pair, *, max_prompt_tokens: int, max_response_tokens: int
) -> tuple[Array, Array]:
    """Of the chosen and of the rejected response: the mean of its states, then the last of them.

    The prompt keeps its last tokens, the response its first ones.
    """
    prompt = model.tokenize(f"{render_prompt(pair.prompt)}\n\nAssistant:")[-max_prompt_tokens:]
    found = []
    for text in (pair.chosen, pair.rejected):
        response = model.tokenize(f" {render_response(text)}")[:max_response_tokens]
        rows = model.states([*prompt, *response]).astype(np.float64)
        answer = rows[len(prompt) :]
        found.append(np.concatenate([answer.mean(axis=0), answer[-1]]))
    return found[0], found[1]


def fit_teacher(
    pairs: Sequence[Pair],
    found: Sequence[tuple[Array, Array]],
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Teacher:
    """Fit w on labelled pairs; DataError where there are fewer prompts than folds.

    found: the features of each pair. on_progress: told (fits done, all fits).
    """
    keys = sorted({split_key(pair) for pair in pairs})
    if len(keys) < N_FOLDS:
        raise DataError(f"{len(keys)} prompts in the labelled pairs: give {N_FOLDS} or more")
    random.Random(seed).shuffle(keys)
    fold_of = {key: place % N_FOLDS for place, key in enumerate(keys)}
    folds = np.array([fold_of[split_key(pair)] for pair in pairs])
    spread = np.concatenate([np.stack(each) for each in found]).std(axis=0) + 1e-6
    differences = np.stack([better - worse for better, worse in found]) / spread
    total = len(PENALTIES) * N_FOLDS + 1
    best: tuple[float, float, float, Array] | None = None
    for at, penalty in enumerate(PENALTIES):
        margins = np.empty(len(pairs))
        for fold in range(N_FOLDS):
            weights = _logistic(differences[folds != fold], penalty)
            margins[folds == fold] = differences[folds == fold] @ weights
            on_progress(at * N_FOLDS + fold + 1, total)
        losses = [_loss(margins / each) for each in _TEMPERATURES]
        least = int(np.argmin(losses))
        if best is None or losses[least] < best[0]:
            temperature = float(_TEMPERATURES[least])
            best = (losses[least], penalty, temperature, margins / temperature)
    assert best is not None
    _, penalty, temperature, margins = best
    weights = _logistic(differences, penalty) / temperature
    on_progress(total, total)
    accuracy = PairAccuracy.of(margins.tolist())
    return Teacher(weights, spread, penalty, temperature, margins, accuracy)


def _logistic(rows: Array, penalty: float) -> Array:
    """argmin over w of sum log(1 + exp(-rows w)) + penalty |w|^2, by Newton's steps."""
    weights = np.zeros(rows.shape[1])
    for _ in range(_MAX_STEPS):
        p = 1.0 / (1.0 + np.exp(np.clip(rows @ weights, -30.0, 30.0)))  # of being wrong
        slope = 2.0 * penalty * weights - rows.T @ p
        bend = (rows * (p * (1.0 - p))[:, None]).T @ rows
        bend[np.diag_indices_from(bend)] += 2.0 * penalty
        step = np.linalg.solve(bend, slope)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return weights


def _loss(margins: Array) -> float:
    return float(np.logaddexp(0.0, -margins).mean())
