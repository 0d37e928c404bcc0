"""How well the reward of a partial response predicts that of the whole.

STARS steers by r(x, y so far). This answers, from plain answers, how much that tells about
r(x, y): Pearson and Spearman correlation over all answers, and how often the partial rewards of
two answers to the same prompt order them as the whole ones do (ties count half), by the tokens
of the response.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from stars_local.core.records import Result


@dataclass(frozen=True, slots=True)
class Agreement:
    """One row: rewards after `n_tokens` tokens against the whole response's.

    pairs agreement lies in [0, 1], 0.5 being chance; nan where nothing could be compared.
    """

    n_tokens: int
    n_answers: int
    pearson: float
    spearman: float
    n_pairs: int
    pair_agreement: float


def partial_agreement(results: Sequence[Result], segment_size: int) -> list[Agreement]:
    """A row a segment index, over the answers that go on after it.

    Results must carry rewards by segment, and a prompt's answers share the part of `prompt_id`
    before the last '#'.
    """
    rows = []
    longest = max((len(result.segments) for result in results), default=0)
    for k in range(longest - 1):
        going = [r for r in results if len(r.segments) > k + 1]
        partial = np.array([_reward(r, k) for r in going])
        whole = np.array([_reward(r, -1) for r in going])
        agreed, n_pairs = _pairs(going, k)
        rows.append(
            Agreement(
                (k + 1) * segment_size,
                len(going),
                _correlation(partial, whole),
                _correlation(_ranks(partial), _ranks(whole)),
                n_pairs,
                agreed / n_pairs if n_pairs else float("nan"),
            )
        )
    return rows


def _reward(result: Result, k: int) -> float:
    reward = result.segments[k].reward
    return float("nan") if reward is None else reward


def _pairs(results: Sequence[Result], k: int) -> tuple[float, int]:
    by_prompt: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_prompt[result.prompt_id.rpartition("#")[0]].append(result)
    agreed, n_pairs = 0.0, 0
    for group in by_prompt.values():
        for a, b in combinations(group, 2):
            partly = np.sign(_reward(a, k) - _reward(b, k))
            wholly = np.sign(_reward(a, -1) - _reward(b, -1))
            agreed += (float(partly * wholly) + 1.0) / 2.0
            n_pairs += 1
    return agreed, n_pairs


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    if len(left) < 2 or not left.std() > 0 or not right.std() > 0:
        return float("nan")
    return float(np.corrcoef(left, right)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks, so that ties do not depend on order."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2.0)[inverse], dtype=np.float64)
