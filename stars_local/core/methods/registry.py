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
from stars_local.core.methods.adaptive import adaptive
from stars_local.core.methods.base import Context, Segmentation
from stars_local.core.methods.best_of_n import best_of_n
from stars_local.core.methods.blockwise import KSchedule, blockwise
from stars_local.core.methods.rejection import rejection
from stars_local.core.methods.stars import Force, StarsParams, stars
from stars_local.core.methods.stopping import StoppingParams, stopping
from stars_local.core.methods.vanilla import vanilla
from stars_local.core.requests import Steps
from stars_local.core.thresholds import Schedule, Threshold, ThresholdFrom
from stars_local.core.widths import WidthPolicy

Method = Callable[[Context], Steps]
_BUDGET = 3.0  # of adaptive, where none is given
# what fields are read as whose default does not tell
_KINDS: dict[str, Any] = {"boundary": BoundaryKind, "budget": float, "quantile_size": int}


@dataclass(frozen=True, slots=True)
class MethodParams:
    """All knobs of all methods; see `StarsParams`, `Threshold` and `Segmentation` for units.

    boundary: None is the method's own. quantile_size: None is `segment_size`. max_segment_tokens:
    the longest segment of cards. n: answers of best-of-n. k, k_schedule: of blockwise. price: of a
    token, in units of the reward, for stopping. spread: standard deviation of the rewards at one
    position, for stopping and adaptive. spreads: the same for stopping, by the index of
    segments of `quantile_size` tokens; empty is `spread` everywhere. budget: judged tokens per
    kept token wanted of adaptive, None for its own, and of stopping, None for a price.
    """

    segment_size: int = 32
    max_attempts: int = 20
    alpha: float = 0.5
    beta: float = 0.0
    reward_threshold: float = -math.inf
    max_new_tokens: int = 256
    schedule: Schedule = Schedule.RAMP
    force: Force = Force.BEST
    ended_at_r_star: bool = False
    tau_at_start: bool = False
    threshold_from: ThresholdFrom = ThresholdFrom.ZERO
    boundary: BoundaryKind | None = None
    min_tokens: int = 4
    max_segment_tokens: int = 64
    entropy_threshold: float = 3.0
    quantiles: tuple[float, ...] = ()
    quantile_size: int | None = None
    n: int = 10
    k: int = 4
    k_schedule: KSchedule = KSchedule.UNIFORM
    price: float = 0.005
    spread: float = 1.0
    spreads: tuple[float, ...] = ()
    budget: float | None = None

    def threshold(self) -> Threshold:
        """The threshold these values describe."""
        return Threshold(
            self.reward_threshold,
            self.alpha,
            self.max_new_tokens,
            self.schedule,
            self.ended_at_r_star,
            self.threshold_from is ThresholdFrom.PROMPT,
            self.quantiles,
            self.segment_size if self.quantile_size is None else self.quantile_size,
        )

    def segmentation(self) -> Segmentation:
        """The segmentation these values describe."""
        kind = BoundaryKind.FIXED if self.boundary is None else self.boundary
        return Segmentation(self.segment_size, kind, self.min_tokens, self.entropy_threshold)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a builder gets besides the parameters; None for the ordinary ones."""

    rule: AcceptanceRule | None = None
    widths: WidthPolicy | None = None


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method: how to build it, whether it scores, whether it needs a calibrated threshold or
    a calibrated spread of rewards, and its own boundary. reads: the fields of `MethodParams`
    that have an effect on it."""

    build: Callable[[MethodParams, Parts], Method]
    reads: frozenset[str]
    scores: bool
    needs_threshold: bool
    help: str
    needs_spread: bool = False
    boundary: BoundaryKind = BoundaryKind.FIXED


def _stars_params(params: MethodParams, parts: Parts) -> StarsParams:
    rule = TiltRule(params.beta) if parts.rule is None else parts.rule
    return StarsParams(
        params.threshold(),
        rule,
        params.segmentation(),
        params.max_attempts,
        params.force,
        parts.widths,
        tau_at_start=params.tau_at_start,
    )


def _stars(params: MethodParams, parts: Parts) -> Method:
    made = _stars_params(params, parts)
    return lambda context: stars(context, made)


def _cards(params: MethodParams, parts: Parts) -> Method:
    own = dataclasses.replace(
        params,
        segment_size=params.max_segment_tokens,
        quantile_size=params.threshold().quantile_size,
    )
    return _stars(own, parts)


def _rejection(params: MethodParams, parts: Parts) -> Method:
    made = _stars_params(params, parts)
    return lambda context: rejection(context, made)


def _adaptive(params: MethodParams, parts: Parts) -> Method:
    made = _stars_params(params, parts)
    budget = _BUDGET if params.budget is None else params.budget
    return lambda context: adaptive(context, made, budget, params.spread)


def _vanilla(params: MethodParams, parts: Parts) -> Method:
    segmentation = params.segmentation()
    return lambda context: vanilla(context, segmentation)


def _best_of_n(params: MethodParams, parts: Parts) -> Method:
    return lambda context: best_of_n(context, params.n, params.segment_size)


def _blockwise(params: MethodParams, parts: Parts) -> Method:
    segmentation = params.segmentation()
    return lambda context: blockwise(context, params.k, params.k_schedule, segmentation)


def _stopping(params: MethodParams, parts: Parts) -> Method:
    cut, cap = params.segmentation(), params.max_attempts
    size = params.segment_size if params.quantile_size is None else params.quantile_size
    made = StoppingParams(
        params.price, params.spread, cut, cap, params.budget, params.spreads, size
    )
    return lambda context: stopping(context, made)


# a whole answer is reseeded where segments would begin, and a calibration belongs to a size
_WHOLE = frozenset({"segment_size", "max_new_tokens"})
_CUT = _WHOLE | {"boundary", "min_tokens", "entropy_threshold"}
_TARGET = frozenset({"alpha", "beta", "reward_threshold", "schedule", "quantiles", "quantile_size"})
_JUDGED = _TARGET | {"threshold_from", "ended_at_r_star", "tau_at_start", "max_attempts", "force"}

METHODS: dict[str, MethodSpec] = {
    "stars": MethodSpec(_stars, _CUT | _JUDGED, True, True, "Rejection sampling of segments."),
    "vanilla": MethodSpec(_vanilla, _CUT, False, False, "Plain sampling."),
    "best-of-n": MethodSpec(
        _best_of_n, _WHOLE | {"n"}, True, False, "The best of n whole answers."
    ),
    "rejection": MethodSpec(
        _rejection, _WHOLE | _JUDGED, True, True, "Rejection sampling of whole answers."
    ),
    "cards": MethodSpec(
        _cards,
        _CUT | _JUDGED | {"max_segment_tokens"},
        True,
        True,
        "Rejection sampling of segments that end before an uncertain token.",
        boundary=BoundaryKind.ENTROPY,
    ),
    "blockwise": MethodSpec(
        _blockwise, _CUT | {"k", "k_schedule"}, True, False, "The best of k attempts per segment."
    ),
    "stopping": MethodSpec(
        _stopping,
        _CUT | {"price", "spread", "spreads", "quantile_size", "max_attempts", "budget"},
        True,
        False,
        "Attempts while they are worth their price.",
        needs_spread=True,
    ),
    "adaptive": MethodSpec(
        _adaptive,
        _CUT | _JUDGED | {"budget", "spread"},
        True,
        True,
        "STARS at a wanted cost per answer.",
        needs_spread=True,
    ),
}


def method_spec(name: str) -> MethodSpec:
    """The method of this name; UsageError with the nearest right one."""
    if name in METHODS:
        return METHODS[name]
    raise UsageError(f"no method {name!r}: {_nearest(name, METHODS)}")


def build(name: str, params: MethodParams, parts: Parts | None = None) -> Method:
    """A method bound to its parameters, ready for a `Task`."""
    check(params)
    spec = method_spec(name)
    if params.boundary is None:
        params = dataclasses.replace(params, boundary=spec.boundary)
    return spec.build(params, Parts() if parts is None else parts)


def parse_method(text: str) -> tuple[str, dict[str, str]]:
    """Split `name:key=value,...`; values stay text. UsageError for names and keys that are
    unknown, and for parameters that the method does not read."""
    name, _, rest = text.partition(":")
    reads = method_spec(name).reads
    overrides: dict[str, str] = {}
    known = {field.name for field in dataclasses.fields(MethodParams)}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"method {text!r}: {item!r} is not KEY=VALUE")
        if key not in known:
            raise UsageError(f"method {text!r}: no parameter {key!r}: {_nearest(key, known)}")
        if key not in reads:
            raise UsageError(f"method {text!r}: {name} does not look at {key}")
        if key in overrides:
            raise UsageError(f"method {text!r}: {key} is given twice: leave one out")
        overrides[key] = value.strip()
    return name, overrides


def with_overrides(params: MethodParams, overrides: Mapping[str, str]) -> MethodParams:
    """Parameters with values read from text; UsageError where a value cannot be read."""
    values: dict[str, Any] = {}
    for key, text in overrides.items():
        values[key] = _read(key, text, getattr(params, key))
    return dataclasses.replace(params, **values)


def _read(key: str, text: str, example: object) -> Any:
    kind: Any = _KINDS.get(key, type(example))
    if kind is tuple:
        raise UsageError(f"parameter {key} is read from a calibration: leave it out")
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError) as error:
        raise UsageError(f"parameter {key} is {text!r}: expected {kind.__name__}") from error


def check(params: MethodParams) -> None:
    """Raise UsageError for values out of range."""
    counts = ("segment_size", "quantile_size", "max_attempts", "max_new_tokens", "min_tokens")
    at_least = dict.fromkeys(counts, 1)
    at_least |= {"n": 1, "k": 1, "budget": 1, "price": 0, "max_segment_tokens": params.min_tokens}
    for key, least in at_least.items():
        value = getattr(params, key)
        if value is not None and not value >= least:
            raise UsageError(f"{key} is {value}: give at least {least}")
    if not 0.0 <= params.alpha <= 1.0:
        raise UsageError(f"alpha is {params.alpha:g}: it lies between 0 and 1")
    if not params.beta >= 0.0:
        raise UsageError(f"beta is {params.beta:g}: give 0 (the hard rule) or more")
    for spread in (params.spread, *params.spreads):
        if not 0.0 < spread < math.inf:
            raise UsageError(f"spread is {spread:g}: a standard deviation lies above 0")
    if math.isnan(params.reward_threshold):
        raise UsageError("reward_threshold is not a number: give one, -inf accepts everything")
    if params.schedule is Schedule.QUANTILE and not params.quantiles:
        raise UsageError("the quantile schedule needs a calibration: run 'stars-local calibrate'")


def _nearest(name: str, known: Mapping[str, object] | set[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(sorted(known))}"
