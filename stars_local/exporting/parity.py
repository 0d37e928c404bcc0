"""Is what was exported still the network that it was exported from?

| precision | held against | refused over |
|---|---|---|
| fp32 | torch, raw outputs, varied lengths and batches | a difference of 1e-4 |
| fp32 with past | torch, every text read in three parts | a difference of 1e-4 |
| int8, fp16 | the fp32 export | a rank correlation of 0.99 or less; a point of pair accuracy |

A point of accuracy is only asked for where there are labelled pairs to count it on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stars_local.core.errors import RewardError
from stars_local.reward.templates import pad_right

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stars_local.reward.session import Session

MAX_FP32_DRIFT = 1e-4
MIN_RANK_CORRELATION = 0.99
MAX_ACCURACY_LOSS = 0.01

Rows = Sequence[Sequence[int]]


def torch_drift(
    network: Any, run: Callable[[Any, Any], Any], batches: Sequence[Rows], pad_id: int, limit: int
) -> float:
    """The largest difference between a torch module and `run` over padded batches.

    Some batches get more padding than they need, as far as `limit` tokens allow.
    """
    import numpy as np
    import torch

    worst = 0.0
    for rows in batches:
        room = limit - max(len(row) for row in rows)
        ids, mask = pad_right(rows, pad_id, extra=min(len(rows) % 3, room))
        with torch.no_grad():
            wanted = network(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        found = run(ids, mask)
        if not np.isfinite(wanted).all():
            raise RewardError("the network gives NaN or infinity in torch already")
        worst = max(worst, float(np.abs(wanted - found).max()))
    return worst


def past_drift(network: Any, session: Session, rows: Rows, seed: int = 0) -> float:
    """The largest difference between torch on whole texts and `session` on parts of them."""
    import random

    import numpy as np
    import torch

    generator = random.Random(seed)
    worst = 0.0
    for row in rows:
        ids = np.array([row], dtype=np.int64)
        with torch.no_grad():
            wanted = network(torch.from_numpy(ids), torch.ones(ids.shape, dtype=torch.int64))
        cuts = sorted({0, len(row), *(generator.randrange(len(row)) for _ in range(2))})
        past = session.no_past()
        for start, end in itertools.pairwise(cuts):
            part = ids[:, start:end]
            found, new = session.run_on(past, part, np.ones_like(part))
            past = [np.concatenate([old, made[0]]) for old, made in zip(past, new, strict=True)]
        worst = max(worst, float(np.abs(wanted.numpy() - found).max()))
    return worst


def varied_batches(rows: Rows, vocabulary: int, longest: int, seed: int = 0) -> list[Rows]:
    """Real texts alone and together, and random ids of every length up to `longest`."""
    import random

    generator = random.Random(seed)
    lengths = [1, 2, 3, 7, 16, 33, 64, longest // 2, longest - 1, longest]
    made = [
        [generator.randrange(vocabulary) for _ in range(max(1, min(length, longest)))]
        for length in lengths
    ]
    together = sorted(rows, key=len)
    return [[made[0]], [made[-1]], made[:5], made[4:], [together[0]], together[:4], together[::7]]


def rank_correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Spearman's, average ranks for ties; 1 where both are constant, 0 where one is."""
    import numpy as np

    a, b = _ranks(left), _ranks(right)
    if a.std() == 0 or b.std() == 0:
        return float(a.std() == b.std())
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2.0)[inverse], dtype=np.float64)
