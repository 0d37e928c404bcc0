"""The training loop: one axis a step, on a plan's batches, resumable to the bit.

What ships is the running average of the weights at the epoch with the lowest held-out loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stars_local.core.errors import DataError
from stars_local.training.batches import Batch, BatchPlan, EncodedPair
from stars_local.training.checkpoint import load_checkpoint, save_checkpoint
from stars_local.training.heldout import HeldOut, measure
from stars_local.training.network import RewardNetwork, pad
from stars_local.training.objective import certainty, learning_rate_factor, preference_loss
from stars_local.training.settings import TrainingSettings


@dataclass(frozen=True)
class StepReport:
    """What a progress display needs: steps done of all, the axis and loss of the last."""

    done: int
    total: int
    axis: str
    loss: float


@dataclass
class Progress:
    """Where a run stands; together with the tensors this is the whole state."""

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    best_loss: float = math.inf
    best_epoch: int = -1
    curve: list[dict[str, Any]] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)


class Trainer:
    """Trains a network on a plan's batches; `run` returns the curve, checkpoints on the way.

    `device` is where the network already is. `save_every` steps (and at every epoch's end)
    the state is written to `folder`; after an exception the last one written is valid.
    """

    def __init__(
        self,
        network: RewardNetwork,
        plan: BatchPlan,
        held_out: Sequence[EncodedPair],
        settings: TrainingSettings,
        folder: Path,
        *,
        device: torch.device,
        save_every: int = 200,
        on_step: Callable[[StepReport], None] = lambda report: None,
        on_epoch: Callable[[list[dict[str, Any]]], None] = lambda curve: None,
    ) -> None:
        self._network = network
        self._plan = plan
        self._held_out = held_out
        self._settings = settings
        self._folder = folder
        self._device = device
        self._save_every = save_every
        self._on_step = on_step
        self._on_epoch = on_epoch
        self._progress = Progress()
        if settings.freeze_embeddings:
            network.word_embeddings.weight.requires_grad_(False)
            network.position_embeddings.weight.requires_grad_(False)
        self._trained = {
            name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad
        }
        self._optimizer = torch.optim.AdamW(self._groups(), fused=True)
        self._average = _copy(network.state_dict())
        self._best = _copy(self._average)
        # Part of a step's arithmetic, so part of resuming to the bit.
        self._steps_per_epoch = len(plan.epoch(0))

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; every epoch has as many."""
        return self._steps_per_epoch * self._settings.epochs

    def resume(self) -> None:
        """Go on from the folder's checkpoint; DataError where its settings are others."""
        state, tensors = load_checkpoint(self._folder)
        # The number of epochs shapes the learning rate's schedule, so it must match too.
        if "progress" not in state:
            raise DataError("an average of runs cannot be resumed: resume one of its members")
        if state["settings"] != self._settings.to_json():
            changed = [
                name
                for name, value in self._settings.to_json().items()
                if state["settings"].get(name) != value
            ]
            raise DataError(
                f"{self._folder}: the checkpoint was made with another "
                f"{', '.join(changed)}: use the same options, or another --out"
            )
        self._progress = Progress(**state["progress"])
        self._network.load_state_dict(_part(tensors, "weights."))
        self._average = _to(_part(tensors, "average."), self._device)
        self._best = _to(_part(tensors, "best."), self._device)
        moments = self._optimizer.state_dict()
        for index, name in enumerate(self._names()):
            moments["state"][index] = {
                key: tensors[f"optimizer.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
            }
        self._optimizer.load_state_dict(moments)

    def run(self) -> list[dict[str, Any]]:
        """Train to the last epoch or until `patience` epochs brought no lower loss."""
        progress, settings = self._progress, self._settings
        while progress.epoch < settings.epochs and not self._is_out_of_patience():
            steps = self._plan.epoch(progress.epoch)
            while progress.step < len(steps):
                batch = self._plan.batch(progress.epoch, progress.step, steps[progress.step])
                loss = self._train_step(batch)
                progress.losses.setdefault(batch.axis, []).append(loss)
                progress.step += 1
                progress.global_step += 1
                self._on_step(StepReport(progress.global_step, self.total_steps, batch.axis, loss))
                if progress.step % self._save_every == 0 and progress.step < len(steps):
                    self._save()
            self._end_epoch()
            self._save()
            self._on_epoch(progress.curve)
        return progress.curve

    def _is_out_of_patience(self) -> bool:
        progress = self._progress
        return progress.epoch - 1 - progress.best_epoch >= self._settings.patience

    def _train_step(self, batch: Batch) -> float:
        settings, progress = self._settings, self._progress
        self._network.train()
        # Dropout draws from torch's generator: seeded a step, it does not depend on the past.
        torch.manual_seed(_step_seed(settings.seed, progress.global_step))
        factor = learning_rate_factor(progress.global_step, self.total_steps, settings.warmup_share)
        for group in self._optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor
        column = self._network.axes.index(batch.axis)
        with torch.autocast(device_type=self._device.type, dtype=torch.bfloat16):
            rewards = self._network(*pad(batch.sequences, self._device))[:, column]
        loss = preference_loss(
            rewards[: batch.n_pairs],
            rewards[batch.n_pairs :],
            certainty(batch.margins, settings.label_smoothing).to(self._device),
            centre_weight=settings.centre_weight,
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self._trained.values()), 1.0)
        self._optimizer.step()
        with torch.no_grad():
            # Early on the average follows quickly, so that it forgets the random head.
            decay = min(
                settings.average_decay, (1 + progress.global_step) / (10 + progress.global_step)
            )
            for name, tensor in self._trained.items():
                self._average[name].lerp_(tensor, 1.0 - decay)
        return float(loss.detach())

    def _end_epoch(self) -> None:
        progress = self._progress
        current = _copy(self._network.state_dict())
        self._network.load_state_dict(self._average)
        result: HeldOut = measure(self._network, self._plan, self._held_out, self._device)
        self._network.load_state_dict(current)
        progress.curve.append(
            {
                "epoch": progress.epoch + 1,
                "steps": progress.global_step,
                "train_loss": {
                    axis: sum(losses) / len(losses) for axis, losses in progress.losses.items()
                },
                "held_out": result.to_json(),
            }
        )
        if result.loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = result.loss, progress.epoch
            self._best = _copy(self._average)
        progress.epoch += 1
        progress.step = 0
        progress.losses = {}

    def _save(self) -> None:
        tensors = {f"weights.{k}": v for k, v in self._network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self._average.items()}
        tensors |= {f"best.{k}": v for k, v in self._best.items()}
        moments = self._optimizer.state_dict()["state"]
        for index, name in enumerate(self._names()):
            for key, value in moments[index].items():
                tensors[f"optimizer.{name}.{key}"] = value
        state = {
            "global_step": self._progress.global_step,
            "axes": list(self._network.axes),
            "sep_id": self._network.sep_id,
            "encoder": self._network.config.to_json(),
            "settings": self._settings.to_json(),
            "progress": asdict(self._progress),
        }
        save_checkpoint(self._folder, state, tensors)

    def _groups(self) -> list[dict[str, Any]]:
        settings = self._settings
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, tensor in self._trained.items():
            rate = (
                settings.head_learning_rate
                if name.startswith("head.")
                else (settings.learning_rate)
            )
            decay = settings.weight_decay if tensor.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(tensor)
        return [
            {"params": tensors, "lr": rate, "full_lr": rate, "weight_decay": decay}
            for (rate, decay), tensors in groups.items()
        ]

    def _names(self) -> list[str]:
        """Parameter names in the optimiser's order, by which its state is indexed."""
        by_identity = {id(tensor): name for name, tensor in self._trained.items()}
        return [
            by_identity[id(tensor)]
            for group in self._optimizer.param_groups
            for tensor in group["params"]
        ]


def _step_seed(seed: int, global_step: int) -> int:
    return (seed * 1_000_003 + global_step) % 2**63


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _to(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
