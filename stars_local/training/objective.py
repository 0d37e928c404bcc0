"""What training minimises, and how fast.

For a batch of pairs of one axis with rewards c (chosen) and r (rejected) of that axis

    loss = -p log sigmoid(c - r) - (1-p) log sigmoid(r - c) + w mean((c + r)^2)

with centring weight w. p, how sure it is that the chosen one is better, is 1 less the label
smoothing for pairs that people ranked, and sigmoid of the teacher's log-odds for pairs of a
teacher (distillation by its soft labels, arXiv 1503.02531). The last term (centred rewards, arXiv
2312.09244) takes away what Bradley-Terry leaves free, an offset a prompt, so that one
threshold means the same for many prompts and zero lies between good and bad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def certainty(margins: Sequence[float | None], label_smoothing: float) -> Tensor:
    """p of the module's head formula for each pair, shape (pairs,), in (0, 1]."""
    sure = 1.0 - label_smoothing
    return torch.tensor(
        [sure if each is None else 0.5 + 0.5 * math.tanh(each / 2.0) for each in margins]
    )


def preference_loss(chosen: Tensor, rejected: Tensor, p: Tensor, *, centre_weight: float) -> Tensor:
    """The mean loss of the module's head formula; all inputs of shape (pairs,)."""
    margin = chosen - rejected
    likelihood = p * functional.logsigmoid(margin) + (1.0 - p) * functional.logsigmoid(-margin)
    return (centre_weight * (chosen + rejected).square() - likelihood).mean()


def learning_rate_factor(step: int, total_steps: int, warmup_share: float) -> float:
    """Of the peak, in (0, 1]: a linear warm-up, then a cosine down to a twentieth."""
    warmup = max(1, round(warmup_share * total_steps))
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, total_steps - warmup)
    return 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * share))
