"""Pair accuracy and loss of a network on held-out pairs, whole and at prefixes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stars_local.preferences.accuracy import PairAccuracy
from stars_local.training.batches import BatchPlan, EncodedPair, cut_at
from stars_local.training.network import RewardNetwork, pad
from stars_local.training.objective import certainty, preference_loss

PREFIX_TOKENS = 32
_BATCH_PAIRS = 16


@dataclass(frozen=True)
class HeldOut:
    """Accuracy by source (whole and at `PREFIX_TOKENS`), and the loss that epochs compete in.

    `loss` is the mean over axes of the mean over both lengths of the Bradley-Terry loss; for a
    teacher's pairs of the one against its soft labels.
    """

    loss: float
    axis_loss: dict[str, float]
    accuracy: dict[str, dict[str, PairAccuracy]]

    def to_json(self) -> dict[str, Any]:
        """As it stands in the card."""
        return {
            "loss": self.loss,
            "axis_loss": self.axis_loss,
            "accuracy": {
                source: {length: one.to_json() for length, one in lengths.items()}
                for source, lengths in self.accuracy.items()
            },
        }


def measure(
    network: RewardNetwork,
    plan: BatchPlan,
    rows: Sequence[EncodedPair],
    device: torch.device,
) -> HeldOut:
    """Score every held-out pair whole and cut to `PREFIX_TOKENS`, in evaluation mode.

    A pair that is equal so far counts whole at that length too, as it does in training.
    """
    network.eval()
    margins: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    by_axis: dict[str, list[float]] = defaultdict(list)
    for length in ("whole", str(PREFIX_TOKENS)):
        cut = [
            row if length == "whole" else cut_at(row, PREFIX_TOKENS, PREFIX_TOKENS) for row in rows
        ]
        scored = pair_rewards(network, plan, cut, device)
        for row, (chosen, rejected) in zip(cut, scored, strict=True):
            margins[row.axis, row.source, length].append(chosen - rejected)
        sure = certainty([row.margin for row in cut], 0.0)
        for row, rewards, p in zip(cut, torch.tensor(scored), sure, strict=True):
            loss = preference_loss(rewards[:1], rewards[1:], p, centre_weight=0.0)
            by_axis[row.axis].append(float(loss))
    accuracy: dict[str, dict[str, PairAccuracy]] = defaultdict(dict)
    for (_, source, length), values in margins.items():
        accuracy[source][length] = PairAccuracy.of(values)
    axis_loss = {axis: sum(values) / len(values) for axis, values in by_axis.items()}
    return HeldOut(sum(axis_loss.values()) / len(axis_loss), axis_loss, dict(accuracy))


def pair_rewards(
    network: RewardNetwork,
    plan: BatchPlan,
    rows: Sequence[EncodedPair],
    device: torch.device,
) -> list[tuple[float, float]]:
    """(reward of chosen, reward of rejected) of each row on its own axis, in order."""
    order = sorted(range(len(rows)), key=lambda i: (rows[i].axis, rows[i].n_tokens))
    found: dict[int, tuple[float, float]] = {}
    start = 0
    while start < len(order):
        axis = rows[order[start]].axis
        members = [i for i in order[start : start + _BATCH_PAIRS] if rows[i].axis == axis]
        batch = plan.assemble([rows[i] for i in members])
        with (
            torch.inference_mode(),
            torch.autocast(device_type=device.type, dtype=torch.bfloat16),
        ):
            rewards: Tensor = network(*pad(batch.sequences, device))
        column = rewards[:, network.axes.index(axis)].tolist()
        for i, chosen, rejected in zip(
            members, column[: len(members)], column[len(members) :], strict=True
        ):
            found[i] = (chosen, rejected)
        start += len(members)
    return [found[i] for i in range(len(rows))]
