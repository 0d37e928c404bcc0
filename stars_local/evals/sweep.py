"""Arms that vary a method's parameters: one factor at a time, or all combinations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from stars_local.core.errors import UsageError

# what the readers of the papers asked to see varied; alpha is what moves tau_0, which is
# (1 - alpha) * r(x, "") + alpha * r_star
FACTORS: Mapping[str, tuple[str, ...]] = {
    "segment_size": ("8", "16", "32", "64"),
    "schedule": ("ramp", "fixed", "decay"),
    "alpha": ("0.1", "0.5", "0.9"),
    "beta": ("0.5", "1", "2"),
}


def default_factors(
    reward_threshold: float | None, beta: float | None
) -> Mapping[str, tuple[str, ...]]:
    """FACTORS, and r_star one beta below and above where both numbers are given.

    A calibrated r_star is only known when the models are open, and is left as it is.
    """
    if reward_threshold is None or beta is None or not beta > 0:
        return FACTORS
    around = tuple(f"{reward_threshold + step * beta:g}" for step in (-1, 1))
    return {**FACTORS, "reward_threshold": around}


def parse_factor(text: str) -> tuple[str, tuple[str, ...]]:
    """Read `name=value,value,...`."""
    name, equals, values = text.partition("=")
    found = tuple(value.strip() for value in values.split(",") if value.strip())
    if not equals or not name.strip() or not found:
        raise UsageError(f"factor {text!r}: give NAME=VALUE,VALUE,...")
    return name.strip().replace("-", "_"), found


def sweep_arms(
    base: str, factors: Mapping[str, Sequence[str]], *, grid: bool = False
) -> tuple[str, ...]:
    """The arms of a sweep as methods are written, `base` first.

    base: a method, perhaps with parameters, which a factor outweighs. One factor at a time
    varies each from the base; a grid takes every combination.
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
    return tuple(dict.fromkeys([base, *(_written(name, {**fixed, **each}) for each in changes)]))


def _written(name: str, values: Mapping[str, str]) -> str:
    listed = ",".join(f"{key}={value}" for key, value in values.items())
    return f"{name}:{listed}" if listed else name
