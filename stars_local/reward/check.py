"""Is a reward model what its manifest says, on this machine? Asked before every long run.

Golden scores; independence of batch and padding; what runs the network; how fast. A model
whose scores depend on their neighbours is scored one text at a time from then on, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stars_local.core.errors import RewardError
from stars_local.core.ports import RewardModel
from stars_local.reward.combine import CombinedReward
from stars_local.reward.golden import TOLERANCE, read_golden
from stars_local.reward.onnx_model import OnnxRewardModel, golden_deviation

MAX_BATCH_DEVIATION = 1e-4
_PADDING = 17
_STEP = 5  # golden texts come in nines, one of each length: fifths have all lengths


@dataclass(frozen=True)
class Independence:
    """How far scores move, in spreads, from those of each text alone and unpadded."""

    batched: float
    padded: float

    @property
    def worst(self) -> float:
        """The larger of both; infinite where a score is not finite."""
        return max(self.batched, self.padded)

    @property
    def invariant(self) -> bool:
        """Whether both stay within 1e-4."""
        return self.worst <= MAX_BATCH_DEVIATION


@dataclass(frozen=True)
class CheckReport:
    """What a check found. Deviations are in spreads, throughput in texts a second."""

    name: str
    golden_deviation: float
    independence: Independence
    batched: bool
    provider_asked: str
    provider: str
    texts_per_s: float
    tokens_per_s: float

    @property
    def passed(self) -> bool:
        """Whether the golden scores are met; a dependence on batches is coped with."""
        return self.golden_deviation <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """For `reward check --json`."""
        return {
            "name": self.name,
            "passed": self.passed,
            "golden_deviation": self.golden_deviation,
            "batched_deviation": self.independence.batched,
            "padded_deviation": self.independence.padded,
            "scored": "in batches" if self.batched else "one text at a time, unpadded",
            "provider_asked": self.provider_asked,
            "provider": self.provider,
            "texts_per_s": round(self.texts_per_s, 1),
            "tokens_per_s": round(self.tokens_per_s, 1),
        }

    def lines(self) -> list[str]:
        """For a person, a line a fact."""
        verdict = "as at the export" if self.passed else f"MORE than {TOLERANCE:g}: do not use it"
        off = self.independence
        return [
            f"{self.name}: golden scores within {self.golden_deviation:.1e} spreads, {verdict}",
            f"alone against batched {off.batched:.1e}, against padded {off.padded:.1e}: "
            + ("scored in batches" if self.batched else "scored one text at a time, unpadded"),
            f"provider {self.provider} (asked for {self.provider_asked})",
            f"{self.texts_per_s:.0f} texts/s, {self.tokens_per_s:.0f} tokens/s on the golden texts",
        ]


def check_model(model: OnnxRewardModel, provider_asked: str) -> CheckReport:
    """Check one model; if its scores depend on batches, batches are forbidden from now on."""
    golden = read_golden(model.folder / model.manifest.golden_file)
    rows = [model.encode(item.prompt, item.response) for item in golden]
    off = golden_deviation(model)
    found = independence(model, rows)
    if not found.invariant:
        model.forbid_batches()
    began = time.perf_counter()
    model.score_ids(rows)
    took = max(time.perf_counter() - began, 1e-9)
    return CheckReport(
        model.manifest.name,
        off,
        found,
        model.batch_invariant,
        provider_asked,
        model.provider,
        len(rows) / took,
        sum(map(len, rows)) / took,
    )


def independence(model: OnnxRewardModel, rows: Sequence[Sequence[int]]) -> Independence:
    """Score rows alone, all together, in threes with strangers, and alone but padded.

    Of many rows every fifth is taken: a large network needs seconds for each.
    """
    import numpy as np

    rows = rows[::_STEP] if len(rows) > _STEP else rows
    alone = np.concatenate([model.run_batch([row]) for row in rows])
    together = model.run_batch(rows)
    threes = np.concatenate(
        [model.run_batch([row, rows[-1 - place], rows[0]])[:1] for place, row in enumerate(rows)]
    )
    limit = model.manifest.max_tokens  # the network may know no positions beyond it
    padded = np.concatenate(
        [model.run_batch([row], extra=min(_PADDING, limit - len(row))) for row in rows]
    )
    batched = max(_distance(alone, together), _distance(alone, threes))
    return Independence(batched, _distance(alone, padded))


def _distance(left: Any, right: Any) -> float:
    import numpy as np

    off = float(np.abs(left - right).max())
    return off if np.isfinite(off) else float("inf")


def check_before_run(reward: RewardModel, provider_asked: str) -> list[str]:
    """Check every ONNX model in `reward`; what to tell the person, a line a fact.

    Raises RewardError where golden scores are missed. Other implementations pass unchecked.
    """
    models = reward.models if isinstance(reward, CombinedReward) else (reward,)
    lines = []
    for model in models:
        if isinstance(model, OnnxRewardModel):
            report = check_model(model, provider_asked)
            if not report.passed:
                raise RewardError(report.lines()[0])
            lines += report.lines()
    return lines
