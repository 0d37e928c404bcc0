"""How far a file's next-token distributions are from a reference's, on one text.

As llama.cpp's `llama-perplexity` defines it: the text is cut into windows of n tokens that do
not overlap; each begins with BOS (in the place of its first token) where the model wants one;
the tokens of a window's second half are predicted, each from all before it in the window.

    perplexity  exp(mean of -log q(token))
    KL          sum over tokens v of p(v) (log p(v) - log q(v)),  p the reference's, q the file's
    same top    the share of places where p and q have the same most likely token

Logits of one window of each file are held at a time, never more. Intervals are 95 % bootstrap
intervals over windows: tokens of a window lean on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stars_local.core.errors import UsageError
from stars_local.core.records import ModelInfo
from stars_local.evals.metrics import Estimate, Floats, bootstrap
from stars_local.llama.logits import log_softmax

MIN_WINDOW = 8
_ROWS = 32  # turned to float64 at a time
OnWindow = Callable[[int, int], None]


class GivesLogits(Protocol):
    """What a measured model must give; `LogitsModel` is one."""

    @property
    def info(self) -> ModelInfo: ...
    @property
    def bos(self) -> int | None: ...
    def tokenize(self, text: str) -> list[int]: ...
    def vocabulary_digest(self) -> str: ...
    def logits(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Kl:
    """KL divergence in nats; the maximum has no interval that means anything."""

    mean: Estimate
    median: Estimate
    p99: Estimate
    max: float


@dataclass(frozen=True, slots=True)
class Fidelity:
    """n_tokens: predicted ones. ppl_ratio: the file's perplexity over the reference's."""

    n_tokens: int
    n_windows: int
    window: int
    ppl: Estimate
    ppl_reference: Estimate
    ppl_ratio: Estimate
    kl: Kl
    same_top: Estimate

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Places:
    """What is kept of every predicted token: natural logs and nats; shape (n,) each."""

    nll: Floats
    nll_reference: Floats
    kl: Floats
    same_top: NDArray[np.bool_]


def check_comparable(reference: GivesLogits, file: GivesLogits) -> None:
    """UsageError where two files are not of one model: nothing they say can be compared."""
    ours, theirs = reference.info, file.info
    if ours.architecture != theirs.architecture:
        raise UsageError(
            f"{theirs.path} has the architecture {theirs.architecture!r}, the reference "
            f"{ours.architecture!r}: compare files of one model"
        )
    if reference.vocabulary_digest() != file.vocabulary_digest():
        raise UsageError(
            f"{theirs.path} has another vocabulary ({theirs.n_vocab} tokens) than the reference "
            f"({ours.n_vocab}): compare files of one model"
        )


def measure(
    reference: GivesLogits,
    file: GivesLogits,
    text: str,
    *,
    window: int,
    max_windows: int | None = None,
    on_window: OnWindow | None = None,
) -> Fidelity:
    """Compare a file with its reference on a text, both already open.

    window: tokens, at least 8. max_windows: how many of the text at most. on_window: told
    (windows done, all). Raises UsageError for files of different models, and for a text of
    fewer than two windows: no interval could be given.
    """
    if window < MIN_WINDOW:
        raise UsageError(f"a window of {window} tokens: give at least {MIN_WINDOW}")
    check_comparable(reference, file)
    windows = cut(reference.tokenize(text), window, reference.bos)[:max_windows]
    if len(windows) < 2:
        raise UsageError(
            f"the text has {len(windows)} whole windows of {window} tokens, 2 are needed: "
            "give a longer text, or lower --window"
        )
    found = []
    for done, tokens in enumerate(windows, start=1):
        first = window // 2
        targets = np.asarray(tokens[first + 1 :])
        found.append(
            compare_places(
                reference.logits(tokens[:-1], first), file.logits(tokens[:-1], first), targets
            )
        )
        if on_window is not None:
            on_window(done, len(windows))
    return summarise(found, window)


def cut(tokens: Sequence[int], window: int, bos: int | None) -> list[list[int]]:
    """The whole windows of a text; what is left over at its end is not used."""
    starts = range(0, len(tokens) - window + 1, window)
    windows = [list(tokens[start : start + window]) for start in starts]
    if bos is not None:
        for each in windows:
            each[0] = bos
    return windows


def compare_places(
    reference: NDArray[np.float32], file: NDArray[np.float32], targets: NDArray[np.int64]
) -> Places:
    """From logits, shape (n, n_vocab) each, and the tokens that followed, shape (n,)."""
    parts = []
    for start in range(0, len(targets), _ROWS):
        rows = slice(start, start + _ROWS)
        p, q = log_softmax(reference[rows]), log_softmax(file[rows])
        at, wanted = np.arange(len(p)), targets[rows]
        parts.append(
            (
                -q[at, wanted],
                -p[at, wanted],
                np.sum(np.exp(p) * (p - q), axis=1),
                p.argmax(axis=1) == q.argmax(axis=1),
            )
        )
    return Places(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def summarise(windows: Sequence[Places], window: int) -> Fidelity:
    """The figures of all windows, with intervals over windows."""
    nll, base, same = (
        [[float(each.mean())] for each in column]
        for column in (
            [w.nll for w in windows],
            [w.nll_reference for w in windows],
            [w.same_top for w in windows],
        )
    )
    kl = np.stack([w.kl for w in windows])
    both = [[a[0], b[0]] for a, b in zip(nll, base, strict=True)]
    return Fidelity(
        n_tokens=int(kl.size),
        n_windows=len(windows),
        window=window,
        ppl=bootstrap(nll, _exp_mean),
        ppl_reference=bootstrap(base, _exp_mean),
        ppl_ratio=bootstrap(both, lambda rows: float(np.exp((rows[:, 0] - rows[:, 1]).mean()))),
        kl=Kl(
            bootstrap(list(kl), lambda rows: float(rows.mean())),
            bootstrap(list(kl), lambda rows: float(np.median(rows))),
            bootstrap(list(kl), lambda rows: float(np.quantile(rows, 0.99))),
            float(kl.max()),
        ),
        same_top=bootstrap(same, lambda rows: float(rows.mean())),
    )


def _exp_mean(rows: Floats) -> float:
    return float(np.exp(rows.mean()))
