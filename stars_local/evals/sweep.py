"""Arms that vary a method's parameters: one factor at a time, or all combinations.

By default a sweep varies what the method looks at of these:

    segment_size      8, 16, 32, 64; of methods that cut by it
    schedule          ramp, fixed, decay, and quantile where the calibration has quantiles
    reward_threshold  half a spread below and above the base's; the spread is that of rewards at
                      one position, by the calibration; where r* is given by hand, half a beta
    alpha             0.1, 0.5, 0.9: what moves tau_0, which is (1 - alpha) r(x, "") + alpha r*
    beta              half and twice the base's
    n, k, budget      of best-of-n, blockwise, and adaptive and stopping
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stars_local.core.boundaries import BoundaryKind
from stars_local.core.errors import UsageError
from stars_local.core.methods.registry import method_spec, parse_method
from stars_local.core.thresholds import Schedule

FACTORS: Mapping[str, tuple[str, ...]] = {
    "segment_size": ("8", "16", "32", "64"),
    "schedule": tuple(map(str, Schedule)),
    "alpha": ("0.1", "0.5", "0.9"),
    "n": ("2", "4", "8", "16"),
    "k": ("2", "4", "8"),
    "budget": ("2", "4", "8"),
}
_TARGET_STEPS = (-0.5, 0.0, 0.5)
_BETA_SHARES = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Base:
    """What is known of the arm that the others are varied from. method: as it is written.
    spread: of rewards at one position, None without a calibration. has_quantiles: whether the
    quantile schedule can be used."""

    method: str
    reward_threshold: float | None = None
    beta: float | None = None
    spread: float | None = None
    has_quantiles: bool = False


def default_factors(base: Base) -> Mapping[str, tuple[str, ...]]:
    """What to vary where nobody says it, with the base's own values; see the module's docstring.

    Raises UsageError for a method that has none of it.
    """
    name = parse_method(base.method)[0]
    spec = method_spec(name)
    found = {key: values for key, values in FACTORS.items() if key in spec.reads}
    if "boundary" not in spec.reads or not spec.scores or spec.boundary is not BoundaryKind.FIXED:
        del found["segment_size"]  # it only says where the randomness of whole answers is renewed
    if "schedule" in found and not base.has_quantiles:
        found["schedule"] = tuple(v for v in found["schedule"] if v != Schedule.QUANTILE)
    if spec.needs_threshold:
        found |= _around(base)
    if not found:
        raise UsageError(f"{name} has nothing that is varied by itself: give --vary NAME=VALUE,...")
    return found


def _around(base: Base) -> Iterator[tuple[str, tuple[str, ...]]]:
    """r* and beta beside those of the base."""
    beta = 0.0 if base.beta is None else base.beta
    unit = beta if base.spread is None else base.spread
    target = base.reward_threshold
    if target is not None and math.isfinite(target) and unit > 0:
        yield "reward_threshold", tuple(_near(target, step * unit) for step in _TARGET_STEPS)
    if beta > 0:
        yield "beta", tuple(_near(beta, (share - 1.0) * beta) for share in _BETA_SHARES)


def _near(value: float, step: float) -> str:
    """The value itself to its last digit, so that it is known again; others as people read them."""
    return repr(value) if step == 0 else f"{value + step:.4g}"


def parse_factor(text: str) -> tuple[str, tuple[str, ...]]:
    """Read `name=value,value,...`."""
    name, equals, values = text.partition("=")
    found = tuple(value.strip() for value in values.split(",") if value.strip())
    if not equals or not name.strip() or not found:
        raise UsageError(f"factor {text!r}: give NAME=VALUE,VALUE,...")
    return name.strip().replace("-", "_"), found


def parse_factors(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read `name=value,value,...` of several factors; one given again has further values."""
    found: dict[str, tuple[str, ...]] = {}
    for name, values in map(parse_factor, texts):
        found[name] = (*found.get(name, ()), *values)
    return found


def sweep_arms(
    base: str,
    factors: Mapping[str, Sequence[str]],
    *,
    grid: bool = False,
    known: Mapping[str, object] | None = None,
) -> tuple[str, ...]:
    """The arms of a sweep as methods are written, `base` first.

    base: a method, perhaps with parameters, which a factor outweighs. One factor at a time
    varies each from the base; a grid takes every combination. known: values of the base; an arm
    that has just these is the base, and not drawn a second time.
    """
    name, _, rest = base.partition(":")
    fixed = dict(item.split("=", 1) for item in rest.split(",") if "=" in item)
    if grid:
        changes = [
            dict(zip(factors, values, strict=True))
            for values in itertools.product(*factors.values())
        ]
    else:
        changes = [{factor: value} for factor, values in factors.items() for value in values]
    has = {} if known is None else known
    others = [each for each in changes if any(_differs(v, has.get(k)) for k, v in each.items())]
    return tuple(dict.fromkeys([base, *(_written(name, {**fixed, **each}) for each in others)]))


def _differs(text: str, value: object) -> bool:
    if value is None:
        return True
    try:
        return float(text) != float(str(value))
    except ValueError:
        return text.lower() != str(value).lower()


def _written(name: str, values: Mapping[str, str]) -> str:
    listed = ",".join(f"{key}={value}" for key, value in values.items())
    return f"{name}:{listed}" if listed else name
