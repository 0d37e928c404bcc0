"""From settings to a decoding method and its parameters; pure.

A method may carry parameters of its own, `stars:max_attempts=10,ended_at_r_star=true`. Those
that are options as well are read like options and stand in the settings (`stars_local.config`
folds them in); the rest are read here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from stars_local.core.boundaries import BoundaryKind
from stars_local.core.errors import UsageError
from stars_local.core.methods import Force
from stars_local.core.methods.registry import (
    MethodParams,
    MethodSpec,
    method_spec,
    parse_method,
    with_overrides,
)
from stars_local.core.thresholds import Schedule, ThresholdFrom
from stars_local.settings import OPTIONS, Settings

_CHOICES = {
    "schedule": Schedule,
    "threshold_from": ThresholdFrom,
    "force": Force,
    "boundary": BoundaryKind,
}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The numbers that only mean something with one reward model; None where the method has none.

    quantiles: calibrated rewards by segment index, of segments of `quantile_size` tokens. spread:
    standard deviation of the rewards at one position. spreads: the same by index, like
    `quantiles`. origin: "given", or the calibration's name.
    """

    alpha: float | None = None
    beta: float | None = None
    reward_threshold: float | None = None
    quantiles: tuple[float, ...] = ()
    spread: float | None = None
    origin: str = "given"
    quantile_size: int | None = None
    spreads: tuple[float, ...] = ()


def spec_of(settings: Settings) -> MethodSpec:
    """The method that the settings name."""
    return method_spec(name_of(settings))


def name_of(settings: Settings) -> str:
    """The method's name without its parameters."""
    return parse_method(settings.method)[0]


def check_target(settings: Settings) -> None:
    """Refuse a calibrated target as an offset: added to r(x, "") it would mean nothing."""
    if settings.threshold_from != ThresholdFrom.PROMPT or not spec_of(settings).needs_threshold:
        return
    if settings.reward_threshold is None or settings.schedule == Schedule.QUANTILE:
        raise UsageError(
            "--threshold-from prompt has no calibrated target: give --reward-threshold, the "
            "offset from r(x, empty), and a schedule other than quantile"
        )


def method_params(settings: Settings, thresholds: Thresholds | None) -> MethodParams:
    """The method's parameters; thresholds are None for a method that has none."""
    found = dataclasses.asdict(settings)
    if thresholds is not None:
        found |= dataclasses.asdict(thresholds)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(MethodParams):
        value = found.get(field.name)
        if value is not None:
            values[field.name] = _CHOICES.get(field.name, _same)(value)
    own = parse_method(settings.method)[1].items()
    rest = {key: text for key, text in own if key not in OPTIONS}
    return with_overrides(MethodParams(**values), rest)


def _same(value: Any) -> Any:
    return value


def recorded_params(settings: Settings, thresholds: Thresholds | None) -> dict[str, object]:
    """What a result's `params` hold: every option and every parameter as it was used.

    alpha, beta and reward_threshold are None for a method that has no threshold; `thresholds`
    says where they come from.
    """
    params: dict[str, object] = dataclasses.asdict(settings)
    params |= dataclasses.asdict(method_params(settings, thresholds))
    del params["model"], params["seed"]
    if not spec_of(settings).needs_threshold:
        params |= {"alpha": None, "beta": None, "reward_threshold": None}
    params["thresholds"] = None if thresholds is None else thresholds.origin
    return params
