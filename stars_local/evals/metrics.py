"""The numbers of an evaluation: pure functions of values by prompt.

Intervals are 95 % percentile bootstrap intervals over prompts, so that answers to one prompt
stay together; arms share prompts and seeds, so pairs of arms are compared prompt by prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_N_RESAMPLES = 2000
_BOUNDS = (0.025, 0.975)
_BLOCK = 1 << 20  # numbers that are resampled at a time
_FLAT = 1e-12  # variance in [0, 1] below which lengths differ by rounding alone


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval; NaN where nothing was measured. n: prompts."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Duel:
    """One arm against another over shared prompts. win, tie and loss are shares whose values
    add up to 1; win_rate counts ties half; difference is the mean of first minus second."""

    win: Estimate
    tie: Estimate
    loss: Estimate
    win_rate: Estimate
    difference: Estimate


def bootstrap(
    rows: Sequence[Sequence[float]],
    statistic: Callable[[Floats], float],
    *,
    seed: int = 0,
    n_resamples: int = _N_RESAMPLES,
) -> Estimate:
    """A statistic of rows (one a prompt) with its interval.

    statistic: given an array of rows, shape (n, columns).
    """
    values = np.asarray(rows, dtype=np.float64)
    if len(values) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    resampled = [statistic(values[pick]) for pick in _picks(len(values), seed, n_resamples)]
    low, high = np.quantile(resampled, _BOUNDS)
    return Estimate(float(statistic(values)), float(low), float(high), len(values))


def _picks(n: int, seed: int, n_resamples: int) -> npt.NDArray[np.int64]:
    """The rows of each resample: shape (n_resamples, n)."""
    return np.random.default_rng(seed).integers(0, n, (n_resamples, n))


def mean(values: Sequence[float]) -> Estimate:
    """The mean over prompts."""
    found = np.asarray(values, dtype=np.float64)
    if len(found) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    low, high = np.quantile(found[_picks(len(found), 0, _N_RESAMPLES)].mean(axis=1), _BOUNDS)
    return Estimate(float(found.mean()), float(low), float(high), len(found))


def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> Estimate:
    """sum(tops) / sum(bottoms), one of each a prompt; NaN where the bottoms add up to 0."""

    def share(rows: Floats) -> float:
        total = rows[:, 1].sum()
        return float(rows[:, 0].sum() / total) if total else math.nan

    return bootstrap(list(zip(tops, bottoms, strict=True)), share)


def duel(first: Mapping[str, float], second: Mapping[str, float], *, margin: float = 0.0) -> Duel:
    """Compare two arms on the prompts that both have.

    margin: differences of up to this size, in units of the value, are ties.
    """
    shared = sorted(set(first) & set(second))
    differences = [first[key] - second[key] for key in shared]
    points = [_point(each, margin) for each in differences]
    win, tie, loss = (mean([float(point == kind) for point in points]) for kind in (1.0, 0.5, 0.0))
    return Duel(
        win,
        tie,
        loss,
        mean(points),
        mean(differences),
    )


def _point(difference: float, margin: float) -> float:
    """1 for a win, 1/2 for a tie, 0 for a loss."""
    return 1.0 if difference > margin else 0.0 if difference < -margin else 0.5


def length_controlled_win_rate(
    first: Mapping[str, float],
    second: Mapping[str, float],
    first_lengths: Mapping[str, float],
    second_lengths: Mapping[str, float],
    *,
    margin: float = 0.0,
) -> Estimate:
    """The win rate that answers of equal length would have.

    The prompts' points (1, 1/2, 0) are regressed on tanh of the standardised difference of
    lengths, the form of AlpacaEval 2 (arXiv 2404.04475) with least squares for its logistic
    model; the intercept is the win rate at no difference, cut to [0, 1].
    """
    shared = sorted(set(first) & set(second))
    rows = [
        (
            _point(first[key] - second[key], margin),
            first_lengths[key] - second_lengths[key],
        )
        for key in shared
    ]

    if not rows:
        return Estimate(math.nan, math.nan, math.nan, 0)
    values = np.asarray(rows, dtype=np.float64)
    picks = _picks(len(values), 0, _N_RESAMPLES)
    n_blocks = math.ceil(picks.size / _BLOCK)
    resampled = [_intercepts(values[block]) for block in np.array_split(picks, n_blocks)]
    low, high = np.quantile(np.concatenate(resampled), _BOUNDS)
    return Estimate(float(_intercepts(values[None])[0]), float(low), float(high), len(values))


def _intercepts(samples: Floats) -> Floats:
    """Of each sample, shape (samples, n, 2): points by least squares where lengths are equal."""
    points, differences = samples[..., 0], samples[..., 1]
    spread = differences.std(axis=1, keepdims=True)
    x = np.tanh(differences / np.where(spread > 0, spread, 1.0))
    middle = x.mean(axis=1, keepdims=True)
    variance = np.square(x - middle).mean(axis=1)
    covariance = ((x - middle) * points).mean(axis=1)
    slope = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > _FLAT)
    fitted: Floats = np.clip(points.mean(axis=1) - slope * middle[:, 0], 0.0, 1.0)
    return fitted


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words over all n-grams, over all texts together; NaN without any."""
    grams = Counter(gram for text in texts for gram in _ngrams(text.split(), n))
    total = sum(grams.values())
    return len(grams) / total if total else math.nan


def self_bleu(texts: Sequence[str], *, n: int = 4, most: int = 100) -> float:
    """Mean BLEU-n of each text against the others (of the first `most`): 1 is all alike.

    Clipped precisions of 1 to n words with equal weights, add-one smoothed above one word, no
    brevity penalty; of a text of fewer than n words, those that it has. NaN for fewer than two
    texts.
    """
    tokens = [text.split() for text in texts[:most]]
    tokens = [words for words in tokens if words]
    if len(tokens) < 2:
        return math.nan
    logs = [0.0] * len(tokens)
    for size in range(1, n + 1):
        counts = [Counter(_ngrams(words, size)) for words in tokens]
        elsewhere = _MostElsewhere(counts)
        smooth = 0 if size == 1 else 1
        for place, mine in enumerate(counts):
            if mine:
                hits = sum(min(count, elsewhere.of(gram, place)) for gram, count in mine.items())
                share = (hits + smooth) / (mine.total() + smooth)
                logs[place] += math.log(share) if share > 0 else -math.inf
    n_sizes = [min(n, len(words)) for words in tokens]
    return sum(math.exp(each / k) for each, k in zip(logs, n_sizes, strict=True)) / len(logs)


class _MostElsewhere:
    """How often a text that is not the one asked about has an n-gram, at most."""

    def __init__(self, counts: Sequence[Counter[tuple[str, ...]]]) -> None:
        self._first: dict[tuple[str, ...], tuple[int, int]] = {}  # most, and who has it
        self._second: dict[tuple[str, ...], int] = {}
        for place, mine in enumerate(counts):
            for gram, count in mine.items():
                most, owner = self._first.get(gram, (0, -1))
                if count > most:
                    self._first[gram] = count, place
                    count = most if owner >= 0 else 0
                self._second[gram] = max(self._second.get(gram, 0), count)

    def of(self, gram: tuple[str, ...], place: int) -> int:
        """The most among the others of text `place`, which has it."""
        most, owner = self._first[gram]
        return self._second[gram] if owner == place else most


def percentiles(values: Sequence[float], levels: Sequence[float] = (0.5, 0.9, 0.99)) -> list[float]:
    """Quantiles of values; NaN without any."""
    if not values:
        return [math.nan for _ in levels]
    return [float(value) for value in np.quantile(np.asarray(values, float), list(levels))]


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
