"""What training minimises, and how fast.

For a batch of pairs of one axis with rewards c (chosen) and r (rejected) of that axis

    loss = -(1-e) log sigmoid(c - r) - e log sigmoid(r - c) + w mean((c + r)^2)

with label smoothing e and centring weight w. The last term (centred rewards, arXiv
2312.09244) takes away what Bradley-Terry leaves free, an offset a prompt, so that one
threshold means the same for many prompts and zero lies between good and bad.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional


def preference_loss(
    chosen: Tensor, rejected: Tensor, *, label_smoothing: float, centre_weight: float
) -> Tensor:
    """The mean loss of the module's head formula; both inputs of shape (pairs,)."""
    margin = chosen - rejected
    likelihood = (1.0 - label_smoothing) * functional.logsigmoid(margin)
    likelihood = likelihood + label_smoothing * functional.logsigmoid(-margin)
    return (centre_weight * (chosen + rejected).square() - likelihood).mean()


def learning_rate_factor(step: int, total_steps: int, warmup_share: float) -> float:
    """Of the peak, in (0, 1]: a linear warm-up, then a cosine down to a twentieth."""
    warmup = max(1, round(warmup_share * total_steps))
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, total_steps - warmup)
    return 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * share))
