"""The arms of an evaluation, from settings: which models are opened, how answers are drawn.

Arms of the same model files share what is loaded. A cohort draws many prompts in one context, so
sequences and cells are counted here, before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stars_local import compose
from stars_local.config import Configured, configure
from stars_local.core.driver import Driver, Task
from stars_local.core.errors import UsageError
from stars_local.core.methods.registry import parse_method
from stars_local.core.ports import RewardModel
from stars_local.core.records import Prompt
from stars_local.evals.runner import Arm, Plan
from stars_local.evals.summary import STEERING
from stars_local.method_settings import Thresholds, recorded_params, spec_of
from stars_local.output import versions
from stars_local.settings import AUTO, OPTIONS, Settings

PROMPT_TOKENS = 384  # of context that a prompt is given, where no --n-ctx says otherwise
FindThresholds = Callable[[Settings, compose.Models], Thresholds | None]


def arm_settings(configured: Configured, methods: Sequence[str]) -> dict[str, Settings]:
    """The settings of each arm by its name, which is how the method is written.

    What stands behind a method's name outweighs a flag. A width of `auto` becomes 1: the batch
    is full of other prompts.
    """
    given = {
        name: getattr(configured.settings, name)
        for name in OPTIONS
        if configured.given(name) and name != "method"
    }
    found = {}
    for method in methods:
        own = parse_method(method)[1]
        flags = {name: value for name, value in given.items() if name not in own}
        settings = configure({**flags, "method": method}, {}).settings
        if settings.width == AUTO:
            settings = dataclasses.replace(settings, width=1)
        found[method] = settings
    return found


def sequences(settings: Settings, cohort: int) -> int:
    """Sequences that a cohort needs at once: a trunk, a kept loser and a round, each prompt."""
    return cohort * (2 + int(settings.width))


@dataclass(slots=True)
class Opened:
    """Models that are open, one set for each pair of files and its limits."""

    cohort: int
    models: dict[tuple[object, ...], compose.Models] = field(default_factory=dict)

    def get(self, settings: Settings) -> compose.Models:
        """The models of an arm; loaded when first asked for."""
        n = sequences(settings, self.cohort)
        if n > compose.MAX_SEQUENCES:
            raise UsageError(
                f"{self.cohort} prompts at width {settings.width} need {n} sequences, a context "
                f"holds {compose.MAX_SEQUENCES}: lower --cohort or --width"
            )
        if settings.n_ctx is None:
            cells = PROMPT_TOKENS + settings.max_new_tokens * (1 + int(settings.width))
            settings = dataclasses.replace(settings, n_ctx=self.cohort * cells)
        files = (settings.model, settings.reward, settings.gate, settings.provider)
        key = (*files, settings.n_ctx, n, settings.threads, settings.gpu_layers)
        if key not in self.models:
            self.models[key] = compose.open_models(settings, n_sequences=n)
        return self.models[key]

    def close(self) -> None:
        """Unload everything."""
        for models in self.models.values():
            models.language.unload()
        self.models.clear()


def make_arm(name: str, settings: Settings, opened: Opened, find: FindThresholds, seed: int) -> Arm:
    """An arm over open models; every cohort starts in a context that was cleared."""
    models = opened.get(settings)
    thresholds = find(settings, models) if spec_of(settings).needs_threshold else None
    if spec_of(settings).needs_spread and thresholds is None:
        thresholds = find(settings, models)

    def make_task(prompt: Prompt) -> Task:
        return compose.make_task(prompt, settings, models, thresholds=thresholds, seed=seed)

    def open_driver(n_slots: int) -> Driver:
        clear(models)
        return compose.open_driver(models, n_slots=n_slots)

    params = {key: _recorded(value) for key, value in recorded_params(settings, thresholds).items()}
    params |= {"seed": seed, "model_sha256": models.language.info.sha256}
    return Arm(name, make_task, open_driver, params)


def make_plan(
    arms: Sequence[Arm],
    prompts: Sequence[Prompt],
    steering: RewardModel,
    judges: Mapping[str, RewardModel],
    cohort: int,
    about: Mapping[str, Any],
) -> Plan:
    """The plan of a run; the steering model is the first judge, and said to be it."""
    machine = {"platform": platform.platform(), "processor": platform.machine()}
    return Plan(
        tuple(arms),
        tuple(prompts),
        {STEERING: steering, **judges},
        cohort,
        {**about, "versions": versions()},
        machine,
    )


def clear(models: compose.Models) -> None:
    """Empty the KV cache, so that not even the order of cells is left of what was before."""
    import llama_cpp

    with models.language.borrowed_context() as context:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)


def _recorded(value: object) -> object:
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
