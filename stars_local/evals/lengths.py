"""Rewards by the length of the answer, so that a judge that pays for length is seen to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stars_local.evals.records import Line

_N_BINS = 4


def by_length(by_arm: Mapping[str, Sequence[Line]]) -> dict[str, Any]:
    """`bins`: shortest and longest answers of each, in kept tokens; the same for all arms, with
    about as many answers in each. `arms`: in each bin an arm's answers and their mean reward by
    judge, None where it has none."""
    lengths = sorted(line["n_kept_tokens"] for answers in by_arm.values() for line in answers)
    ends = sorted({lengths[len(lengths) * k // _N_BINS - 1] for k in range(1, _N_BINS + 1)})
    starts = [lengths[0], *(end + 1 for end in ends)]
    bins = [[low, high] for low, high in zip(starts, ends, strict=False) if low <= high]
    return {
        "bins": bins,
        "arms": {
            arm: [
                _bin([line for line in answers if low <= line["n_kept_tokens"] <= high])
                for low, high in bins
            ]
            for arm, answers in by_arm.items()
        },
    }


def _bin(answers: Sequence[Line]) -> dict[str, Any]:
    rewards: dict[str, list[float]] = {}
    for line in answers:
        for judge, value in line["rewards"].items():
            if value is not None:
                rewards.setdefault(judge, []).append(value)
    means = {judge: sum(values) / len(values) for judge, values in rewards.items()}
    return {"n": len(answers), "rewards": means}
