"""Whether two files write alike: a two-sample test of the texts themselves.

Kernel: the cosine of the counts of all strings of 1 to `LONGEST` characters (a spectrum kernel,
Leslie et al. 2002, normalised), so k(x, x) = 1. With one text x_i and y_i of each file a prompt,

    h_ij  = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j)
    MMD^2 = mean of h_ij over i != j            (Gretton et al. 2012, equation 3)

If both files write alike, x_i and y_i may change places prompt by prompt, which turns h_ij into
s_i s_j h_ij with signs s: the p-value is the share of random signs with an MMD^2 as large. The
texts must come from independent seeds: shared ones would make equal files look too equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stars_local.core.errors import DataError

LONGEST = 4
EQUIVALENCE = 0.01  # an MMD^2 below it is taken as no difference; equal texts have k = 1
_N_SIGNS = 2000


@dataclass(frozen=True, slots=True)
class TwoSample:
    """p_value: of the permutation test. upper: a bound of MMD^2 at about 95 %, by jackknife over
    prompts. bound: `EQUIVALENCE`. equivalent: upper lies below it."""

    mmd2: float
    p_value: float
    upper: float
    equivalent: bool
    n: int
    bound: float = EQUIVALENCE


def two_sample(first: Sequence[str], second: Sequence[str], *, seed: int = 0) -> TwoSample:
    """Test texts by two files, one a prompt, in the same order of prompts."""
    n = len(first)
    if n < 3 or n != len(second):
        raise DataError(f"{n} and {len(second)} texts: 3 or more are needed, as many of each")
    kernel = string_kernel([*first, *second])
    xx, yy, xy = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    h = xx + yy - xy - xy.T
    np.fill_diagonal(h, 0.0)
    total = float(h.sum())
    mmd2 = total / (n * (n - 1))
    rng = np.random.default_rng(seed)
    signs = rng.choice((-1.0, 1.0), size=(_N_SIGNS, n))
    drawn = np.einsum("ri,ij,rj->r", signs, h, signs, optimize=True)
    tolerance = 1e-12 * n * n
    p_value = (1 + int((drawn >= total - tolerance).sum())) / (1 + _N_SIGNS)
    without = (total - 2 * h.sum(axis=1)) / ((n - 1) * (n - 2))
    error = float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))
    upper = mmd2 + 1.645 * error
    return TwoSample(mmd2, p_value, upper, upper < EQUIVALENCE, n)


def string_kernel(texts: Sequence[str]) -> NDArray[np.float64]:
    """The kernel of all pairs of texts; an empty text is like nothing but another empty one."""
    counts = [
        Counter(text[at : at + size] for size in range(1, LONGEST + 1) for at in range(len(text)))
        for text in texts
    ]
    kernel = np.eye(len(texts))
    norms = [sum(v * v for v in each.values()) ** 0.5 for each in counts]
    for i, mine in enumerate(counts):
        for j in range(i):
            if not mine or not counts[j]:
                value = float(not mine and not counts[j])
            else:
                small, large = sorted((mine, counts[j]), key=len)
                value = sum(v * large[k] for k, v in small.items()) / (norms[i] * norms[j])
            kernel[i, j] = kernel[j, i] = value
    return kernel
