"""Runs of an evaluation over toy doubles, for tests that stop, shard and compare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stars_local.core.driver import Driver, Task
from stars_local.core.methods import Context
from stars_local.core.methods.registry import MethodParams, build
from stars_local.core.records import Prompt
from stars_local.core.seeds import SeedSource
from stars_local.evals.records import RESULTS, read_lines
from stars_local.evals.runner import Arm, Plan
from tests.support.laws import letters_model, letters_reward

PARAMS = MethodParams(
    segment_size=3, max_attempts=4, reward_threshold=1.0, beta=0.2, max_new_tokens=9, n=3
)


def arm(name: str, seed: int = 0) -> Arm:
    def make_task(prompt: Prompt) -> Task:
        context = Context(SeedSource(seed, prompt.id), PARAMS.max_new_tokens, width=2)
        return Task(prompt, build(name, PARAMS), name, context)

    return Arm(
        name,
        make_task,
        lambda n_slots: Driver(letters_model(), letters_reward(), n_slots=n_slots),
        {"seed": seed},
    )


def plan(n_prompts: int = 7, width: int = 3, **more: Any) -> Plan:
    prompts = tuple(Prompt(f"p{i}", text=f"prompt {i}") for i in range(n_prompts))
    names = ("vanilla", "stars", "best-of-n")
    arms = more.pop("arms", tuple(arm(name) for name in names))
    return Plan(arms, prompts, {"steering": letters_reward()}, width, more)


def timeless(folder: Path) -> list[str]:
    lines = list(read_lines(folder / RESULTS))
    for line in lines:
        assert line.pop("elapsed_s") >= 0
    return sorted(json.dumps(line, sort_keys=True) for line in lines)
