"""Everything that decides a training run besides its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from stars_local.training.batches import PrefixPolicy, TextLimits


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides a run besides its data; all of it goes into the card."""

    axis_weights: Mapping[str, float]
    epochs: int = 3
    seed: int = 0
    batch_size: int = 16
    learning_rate: float = 8e-5
    head_learning_rate: float = 3e-4
    weight_decay: float = 0.01
    warmup_share: float = 0.08
    label_smoothing: float = 0.03
    centre_weight: float = 0.01
    average_decay: float = 0.995
    patience: int = 2
    freeze_embeddings: bool = True
    limits: TextLimits = field(default_factory=lambda: TextLimits(256, 96))
    prefixes: PrefixPolicy = field(default_factory=PrefixPolicy)

    def to_json(self) -> dict[str, Any]:
        """The settings as they come back from a JSON file: lists for tuples, plain dicts."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values
