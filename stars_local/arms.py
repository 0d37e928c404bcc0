"""The arms of an evaluation, from settings: which models are opened, how answers are drawn.

One language model is open at a time: arms that share it share what is loaded. A cohort draws
many prompts in one context, so sequences and cells are counted here, before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stars_local import compose
from stars_local.arm_specs import ArmSpec, parse_arm
from stars_local.cohorts import Layout, layout_of, longest_prompts
from stars_local.config import Configured, configure
from stars_local.core.driver import Driver, Task
from stars_local.core.errors import UsageError
from stars_local.core.methods.registry import Parts, build, parse_method
from stars_local.core.ports import RewardModel
from stars_local.core.records import Prompt
from stars_local.evals.judges import STEERING, is_steering
from stars_local.evals.runner import Arm, Plan
from stars_local.method_settings import Thresholds, method_params, name_of, recorded_params, spec_of
from stars_local.output import versions
from stars_local.settings import AUTO, OPTIONS, Settings

FindThresholds = Callable[[Settings, compose.Models], Thresholds | None]


def arm_settings(
    configured: Configured, methods: Sequence[str], more: Sequence[ArmSpec] = ()
) -> dict[str, Settings]:
    """The settings of each arm by its name; those of methods are named as they are written.

    What an arm says itself outweighs a flag. A width of `auto` becomes 1: the batch is full of
    other prompts. Raises UsageError.
    """
    given = {
        name: getattr(configured.settings, name)
        for name in OPTIONS
        if configured.given(name) and name != "method"
    }
    found: dict[str, Settings] = {}
    for spec in (*map(parse_arm, methods), *more):
        if spec.name in found:
            raise UsageError(
                f"the arm {spec.name!r} is given twice: leave one out, or name them apart"
            )
        found[spec.name] = _settings_of(spec, given)
    return found


def _settings_of(spec: ArmSpec, given: Mapping[str, Any]) -> Settings:
    own = parse_method(spec.method)[1]
    flags = {name: value for name, value in given.items() if name not in own}
    try:
        settings = configure({**flags, **spec.values, "method": spec.method}, {}).settings
    except UsageError as error:
        raise UsageError(f"{spec.where}: {error}" if spec.where else str(error)) from error
    return dataclasses.replace(settings, width=1) if settings.width == AUTO else settings


@dataclass(slots=True)
class Opened:
    """Models that are open: one language model at a time, and each reward model asked for.

    turns: all prompts that will be drawn for, turn by turn, so that each can have a stream of its
    own; those of later turns leave a blank for the answers before them. None, and they share one
    cache. turn: the one that is drawn, from 0.
    """

    cohort: int
    turns: Sequence[Sequence[Prompt]] = ()
    turn: int = 0
    language: compose.Models | None = None
    rewards: dict[tuple[object, ...], RewardModel] = field(default_factory=dict)
    key: tuple[object, ...] = ()
    _longest: dict[tuple[object, ...], tuple[int | None, ...]] = field(default_factory=dict)

    def layout(self, settings: Settings) -> Layout:
        """The context of a cohort. Raises UsageError, also where a prompt of any turn with its
        answer is more than the model was trained for."""
        if not self.turns or settings.n_ctx is not None:
            return layout_of(settings, self.cohort, None)
        key = settings.model, settings.lora, settings.max_new_tokens
        if key not in self._longest:
            self._unload()  # the prompts are counted by a model that is opened for it
            self._longest[key] = longest_prompts(settings, self.turns)
        return layout_of(settings, self.cohort, self._longest[key][self.turn])

    def language_key(self, settings: Settings) -> tuple[object, ...]:
        """What arms must have in common to be drawn with the same open language model."""
        files = (settings.model, settings.lora)
        return (*files, self.layout(settings), settings.threads, settings.gpu_layers)

    def get(self, settings: Settings) -> compose.Models:
        """The models of an arm. Another language model that was open is unloaded."""
        key = self.language_key(settings)
        reward_key = _reward_key(settings)
        if self.language is None or key != self.key:
            self._unload()
            layout = self.layout(settings)
            self.language = compose.open_models(
                dataclasses.replace(settings, n_ctx=layout.n_ctx),
                scores=reward_key not in self.rewards,
                n_sequences=layout.n_sequences,
                unified=layout.unified,
            )
            self.key = key
            if self.language.reward is not None:
                self.rewards[reward_key] = self.language.reward
        reward = self.reward(settings)
        return compose.Models(self.language.language, reward, compose.score_chunk(reward))

    def reward(self, settings: Settings) -> RewardModel:
        """The steering model of an arm."""
        key = _reward_key(settings)
        if key not in self.rewards:
            self.rewards[key] = compose.open_reward_model(settings)
        return self.rewards[key]

    def close(self) -> None:
        """Unload everything."""
        self._unload()
        self.rewards.clear()

    def _unload(self) -> None:
        if self.language is not None:
            self.language.language.unload()
        self.language = None


def _reward_key(settings: Settings) -> tuple[object, ...]:
    return settings.reward, settings.gate, settings.provider, settings.threads


def make_arms(
    named: Mapping[str, Settings], opened: Opened, find: FindThresholds, seed: int
) -> list[Arm]:
    """The arms in their order; each language model is opened once, for what it must tell."""
    keys = {name: opened.language_key(settings) for name, settings in named.items()}
    made = {
        name: make_arm(name, named[name], opened, find, seed)
        for key in dict.fromkeys(keys.values())
        for name in named
        if keys[name] == key
    }
    return [made[name] for name in named]


def make_arm(name: str, settings: Settings, opened: Opened, find: FindThresholds, seed: int) -> Arm:
    """An arm; its models are opened now, for thresholds and digests, and again where another
    arm's took their place. Every cohort starts in a context that was cleared."""
    models = opened.get(settings)
    needs = spec_of(settings).needs_threshold or spec_of(settings).needs_spread
    thresholds = find(settings, models) if needs else None

    def make_task(prompt: Prompt) -> Task:
        held = opened.get(settings)
        return compose.make_task(prompt, settings, held, thresholds=thresholds, seed=seed)

    def open_driver(n_slots: int) -> Driver:
        held = opened.get(settings)
        clear(held)
        return compose.open_driver(held, n_slots=n_slots)

    # what is wrong with its parameters comes out here, before anything is written
    build(name_of(settings), method_params(settings, thresholds), Parts())
    params = {key: _recorded(value) for key, value in recorded_params(settings, thresholds).items()}
    info = models.language.info
    params |= {"seed": seed, "model_sha256": info.sha256, "adapters": info.adapters}
    params["attention"] = models.language.attention
    return Arm(name, make_task, open_driver, params, opened.language_key(settings))


def steering_models(named: Mapping[str, Settings], opened: Opened) -> dict[str, RewardModel]:
    """The steering models of all arms, by the names under which they score every answer: the
    first arm's is `steering`, another's has its reward behind that."""
    found: dict[str, RewardModel] = {}
    first = next(iter(named.values())).reward
    for settings in named.values():
        name = STEERING if settings.reward == first else f"{STEERING} {settings.reward}"
        if name not in found:
            found[name] = opened.reward(settings)
    return found


def make_plan(
    arms: Sequence[Arm],
    prompts: Sequence[Prompt],
    steering: RewardModel,
    judges: Mapping[str, RewardModel],
    cohort: int,
    about: Mapping[str, Any],
) -> Plan:
    """The plan of a run; the steering model is the first judge, and said to be it."""
    from stars_local.reward.combine import digests_of

    scored = {STEERING: steering, **judges}
    steerers = [digests_of(model) for name, model in scored.items() if is_steering(name)]
    machine = {"platform": platform.platform(), "processor": platform.machine()}
    return Plan(
        tuple(arms),
        tuple(prompts),
        scored,
        cohort,
        {**about, "steering_models": sorted(set().union(*steerers)), "versions": versions()},
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
