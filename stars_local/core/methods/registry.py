"""The decoding methods by name, with every knob that any of them has.

`stars`, `vanilla` and their like are built from one `MethodParams`; which fields a method reads
stands in `METHODS`. A method may be written with values of its own: `best-of-n:n=10`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stars_local.core.acceptance import AcceptanceRule, TiltRule
from stars_local.core.boundaries import BoundaryKind
from stars_local.core.errors import UsageError
from stars_local.core.methods.base import Context, Segmentation
from stars_local.core.methods.stars import Force, StarsParams, stars
from stars_local.core.methods.vanilla import vanilla
from stars_local.core.requests import Steps
from stars_local.core.thresholds import Schedule, Threshold
from stars_local.core.widths import WidthPolicy

Method = Callable[[Context], Steps]


@dataclass(frozen=True, slots=True)
class MethodParams:
    """All knobs of all methods; see `StarsParams`, `Threshold` and `Segmentation` for units."""

    segment_size: int = 32
    max_attempts: int = 20
    alpha: float = 0.5
    beta: float = 0.0
    reward_threshold: float = -math.inf
    max_new_tokens: int = 256
    schedule: Schedule = Schedule.RAMP
    force: Force = Force.BEST
    ended_at_r_star: bool = False
    relative: bool = False
    boundary: BoundaryKind = BoundaryKind.FIXED
    min_tokens: int = 4
    entropy_threshold: float = 3.0
    quantiles: tuple[float, ...] = ()

    def threshold(self) -> Threshold:
        """The threshold these values describe."""
        return Threshold(
            self.reward_threshold,
            self.alpha,
            self.max_new_tokens,
            self.schedule,
            self.ended_at_r_star,
            self.relative,
            self.quantiles,
        )

    def segmentation(self) -> Segmentation:
        """The segmentation these values describe."""
        return Segmentation(
            self.segment_size, self.boundary, self.min_tokens, self.entropy_threshold
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """What a builder gets besides the parameters; None for the ordinary ones."""

    rule: AcceptanceRule | None = None
    widths: WidthPolicy | None = None


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method: how to build it, whether it scores, whether it needs a calibrated threshold."""

    build: Callable[[MethodParams, Parts], Method]
    scores: bool
    needs_threshold: bool
    help: str


def _stars(params: MethodParams, parts: Parts) -> Method:
    rule = TiltRule(params.beta) if parts.rule is None else parts.rule
    made = StarsParams(
        params.threshold(),
        rule,
        params.segmentation(),
        params.max_attempts,
        params.force,
        parts.widths,
    )
    return lambda context: stars(context, made)


def _vanilla(params: MethodParams, parts: Parts) -> Method:
    segmentation = params.segmentation()
    return lambda context: vanilla(context, segmentation)


METHODS: dict[str, MethodSpec] = {
    "stars": MethodSpec(_stars, True, True, "Rejection sampling of segments."),
    "vanilla": MethodSpec(_vanilla, False, False, "Plain sampling."),
}


def method_spec(name: str) -> MethodSpec:
    """The method of this name; UsageError with the nearest right one."""
    if name in METHODS:
        return METHODS[name]
    raise UsageError(f"no method {name!r}: {_nearest(name, METHODS)}")


def build(name: str, params: MethodParams, parts: Parts | None = None) -> Method:
    """A method bound to its parameters, ready for a `Task`."""
    check(params)
    return method_spec(name).build(params, Parts() if parts is None else parts)


def parse_method(text: str) -> tuple[str, dict[str, str]]:
    """Split `name:key=value,...`; UsageError for unknown names and keys. Values stay text."""
    name, _, rest = text.partition(":")
    method_spec(name)
    overrides: dict[str, str] = {}
    known = {field.name for field in dataclasses.fields(MethodParams)}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"method {text!r}: {item!r} is not KEY=VALUE")
        if key not in known:
            raise UsageError(f"method {text!r}: no parameter {key!r}: {_nearest(key, known)}")
        overrides[key] = value.strip()
    return name, overrides


def with_overrides(params: MethodParams, overrides: Mapping[str, str]) -> MethodParams:
    """Parameters with values read from text; UsageError where a value cannot be read."""
    values: dict[str, Any] = {}
    for key, text in overrides.items():
        values[key] = _read(key, text, getattr(params, key))
    return dataclasses.replace(params, **values)


def _read(key: str, text: str, example: object) -> Any:
    kind: Any = type(example)
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError) as error:
        raise UsageError(f"parameter {key} is {text!r}: expected {kind.__name__}") from error


def check(params: MethodParams) -> None:
    """Raise UsageError for values out of range."""
    at_least = {"segment_size": 1, "max_attempts": 1, "max_new_tokens": 1, "min_tokens": 1}
    for key, least in at_least.items():
        value = getattr(params, key)
        if value < least:
            raise UsageError(f"{key} is {value}: give at least {least}")
    if not 0.0 <= params.alpha <= 1.0:
        raise UsageError(f"alpha is {params.alpha:g}: it lies between 0 and 1")
    if not params.beta >= 0.0:
        raise UsageError(f"beta is {params.beta:g}: give 0 (the hard rule) or more")
    if math.isnan(params.reward_threshold):
        raise UsageError("reward_threshold is not a number: give one, -inf accepts everything")
    if params.schedule is Schedule.QUANTILE and not params.quantiles:
        raise UsageError("the quantile schedule needs a calibration: run 'stars-local calibrate'")


def _nearest(name: str, known: Mapping[str, object] | set[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(sorted(known))}"
