"""The models that a chat has open and the settings in force, which `/set` changes."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stars_local import compose
from stars_local.config import CHAT, DEFAULT, OWNED, Configured, check_together, flag_of, is_idle
from stars_local.core.driver import Task
from stars_local.core.errors import UsageError
from stars_local.core.methods.registry import check, parse_method
from stars_local.core.records import Prompt
from stars_local.method_settings import Thresholds, method_params, spec_of
from stars_local.sampling_settings import sampling
from stars_local.settings import OPTIONS, Settings, read_value

_FIXED_PANELS = ("Models", "Machine")
_LEAST_ROOM_SHARE = 4  # an answer has room for its length, or for this part of the context

FindThresholds = Callable[[Settings, compose.Models], Thresholds | None]


@dataclass(slots=True)
class Desk:
    """What answers are drawn with."""

    configured: Configured
    models: compose.Models
    thresholds: Thresholds | None
    seed: int
    find_thresholds: FindThresholds
    n_sequences: int = field(init=False)  # that the context was opened with

    def __post_init__(self) -> None:
        self.n_sequences = compose.sequences_of_one_prompt(self.settings)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.configured.settings

    @property
    def least_room(self) -> int:
        """Tokens that an answer must have room for before old turns leave the context."""
        n_ctx = self.models.language.info.n_ctx
        return max(1, min(self.settings.max_new_tokens, n_ctx // _LEAST_ROOM_SHARE))

    def make_task(self, prompt: Prompt, draw: int) -> Task:
        """The task of one answer; its cells stay for the next turn."""
        return compose.make_task(
            prompt,
            self.settings,
            self.models,
            thresholds=self.thresholds,
            seed=self.seed,
            turn=draw,
            keep=True,
        )

    def change(self, name: str, text: str) -> str:
        """Change one option; returns a line that says so. `default` as a value takes it back.

        Raises UsageError for what is wrong or cannot change while the models are open, and
        whatever finding new thresholds raises; nothing changes then.
        """
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.0)
            raise UsageError(f"/set {name}: no such parameter: the nearest is {near[0]}")
        if name == "system":
            raise UsageError("/set system: use /system TEXT")
        if OPTIONS[name].panel in _FIXED_PANELS:
            raise UsageError(
                f"/set {name}: fixed while the models are open: start again with {flag_of(name)}"
            )
        default = getattr(Settings(), name)
        value = default if text == "default" else read_value(name, text, f"/set {name}")
        before = getattr(self.settings, name)
        origin = DEFAULT if text == "default" else CHAT
        origins = {**self.configured.origins, name: origin}
        changes = {name: value}
        if name == "method":
            # what belongs to one method alone goes with it
            alone = {each: getattr(Settings(), each) for each in OWNED}
            own = _own_parameters(value)
            changes |= {**alone, **own}
            origins |= {**dict.fromkeys(alone, DEFAULT), **dict.fromkeys(own, origin)}
        changed = dataclasses.replace(self.settings, **changes)
        configured = Configured(changed, origins)
        check_together(configured)
        wanted = compose.sequences_of_one_prompt(changed)
        if wanted > self.n_sequences:
            raise UsageError(
                f"/set {name} {text}: needs {wanted} sequences, this chat was opened with "
                f"{self.n_sequences}: start again with {flag_of(name)} {text}"
            )
        models = self.models
        if spec_of(changed).scores and models.reward is None:
            reward = compose.open_reward_model(changed)
            models = dataclasses.replace(
                models, reward=reward, score_chunk=compose.score_chunk(reward)
            )
        thresholds = self.find_thresholds(changed, models)
        check(method_params(changed, thresholds))
        sampling(changed)
        self.configured, self.models, self.thresholds = configured, models, thresholds
        if name == "seed" and value is not None:
            self.seed = value
        line = f"{name} is {_shown(name, value)} (was {_shown(name, before)})"
        if is_idle(name, changed.method):
            line += f"; {changed.method} does not look at it"
        return line


def _own_parameters(method: str) -> dict[str, Any]:
    """The parameters that a method carries behind its colon, as far as they are options."""
    own = parse_method(method)[1]
    return {
        key: read_value(key, text, f"/set {key}") for key, text in own.items() if key in OPTIONS
    }


def _shown(name: str, value: object) -> str:
    return OPTIONS[name].unset if value is None else f"{value}"
