"""From settings to a decoding method and its parameters; pure.

A method may carry parameters of its own, `stars:max_attempts=10,relative=true`. Those that are
options as well are read like options and stand in the settings (`stars_local.config` folds them
in); the rest are read here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stars_local.core.methods.registry import (
    MethodParams,
    MethodSpec,
    method_spec,
    parse_method,
    with_overrides,
)
from stars_local.settings import OPTIONS, Settings


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The numbers that only mean something with one reward model.

    quantiles: calibrated rewards by segment index. origin: "given", or the calibration's name.
    """

    alpha: float
    beta: float
    reward_threshold: float
    quantiles: tuple[float, ...] = ()
    origin: str = "given"


def spec_of(settings: Settings) -> MethodSpec:
    """The method that the settings name."""
    return method_spec(name_of(settings))


def name_of(settings: Settings) -> str:
    """The method's name without its parameters."""
    return parse_method(settings.method)[0]


def method_params(settings: Settings, thresholds: Thresholds | None) -> MethodParams:
    """The method's parameters; thresholds are None for a method that has none."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(MethodParams):
        value = getattr(settings, field.name, None)
        if value is not None:
            example = field.default
            values[field.name] = type(example)(value) if isinstance(example, StrEnum) else value
    if thresholds is not None:
        found = dataclasses.asdict(thresholds)
        values |= {name: found[name] for name in found if name != "origin"}
    own = parse_method(settings.method)[1].items()
    rest = {key: text for key, text in own if key not in OPTIONS}
    return with_overrides(MethodParams(**values), rest)


def recorded_params(settings: Settings, thresholds: Thresholds | None) -> dict[str, object]:
    """What a result's `params` hold: every option and every parameter as it was used.

    alpha, beta and reward_threshold are None for a method that has no threshold; `thresholds`
    says where they come from.
    """
    params: dict[str, object] = dataclasses.asdict(settings)
    params |= dataclasses.asdict(method_params(settings, thresholds))
    del params["model"], params["seed"]
    if thresholds is None:
        params |= {"alpha": None, "beta": None, "reward_threshold": None}
    params["thresholds"] = None if thresholds is None else thresholds.origin
    return params
