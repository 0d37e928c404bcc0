"""`stars-local sweep`: one method with its parameters varied, compared like the arms of `eval`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from stars_local.cli.eval import (
    Cohort,
    Judge,
    Limit,
    Margin,
    Out,
    Prompts,
    Request,
    SampleSeed,
    ShardOf,
    draw_arms,
)
from stars_local.cli.options import with_settings
from stars_local.config import Configured

if TYPE_CHECKING:
    from stars_local import compose
    from stars_local.arms import Opened
    from stars_local.cli.eval import Arms
    from stars_local.method_settings import Thresholds
    from stars_local.settings import Settings


@with_settings
def sweep(
    configured: Configured,
    prompts: Prompts,
    out: Out,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="A parameter and its values; as often as wanted. Default: what the method looks "
            "at of segment size, schedule, reward threshold, alpha, beta, n, k and budget.",
        ),
    ] = None,
    grid: Annotated[bool, typer.Option(help="All combinations, not one at a time.")] = False,
    recalibrate: Annotated[
        bool,
        typer.Option(help="Give each segment size the thresholds calibrated for it."),
    ] = False,
    judge: Judge = None,
    limit: Limit = None,
    sample_seed: SampleSeed = None,
    cohort: Cohort = 8,
    shard: ShardOf = "1/1",
    margin: Margin = 0.0,
) -> None:
    """Vary the parameters of --method, one at a time, and compare like `eval`.

    All arms have the thresholds of --method's own segment size, so that one thing differs.
    """
    from stars_local.evals.sweep import parse_factors

    factors = parse_factors(vary) if vary else None
    _check(configured, factors, grid)
    draw_arms(
        configured.settings,
        Request(prompts, out, judge or (), limit, sample_seed, cohort, shard, margin),
        lambda opened: _arms(configured, factors, grid, recalibrate, opened),
    )


def _check(configured: Configured, factors: Mapping[str, Sequence[str]] | None, grid: bool) -> None:
    """Refuse what is wrong before anything is opened; raises UsageError."""
    from stars_local.arms import arm_settings
    from stars_local.evals.sweep import Base, default_factors, sweep_arms

    method = configured.settings.method
    wanted = default_factors(Base(method)) if factors is None else factors
    arm_settings(configured, sweep_arms(method, wanted, grid=grid))


def _arms(
    configured: Configured,
    factors: Mapping[str, Sequence[str]] | None,
    grid: bool,
    recalibrate: bool,
    opened: Opened,
) -> Arms:
    """The arms around the base, whose thresholds are found first."""
    from stars_local.arms import arm_settings
    from stars_local.cli.thresholds import thresholds_for
    from stars_local.core.thresholds import ThresholdFrom
    from stars_local.evals.sweep import Base, default_factors, sweep_arms
    from stars_local.method_settings import method_params

    method = configured.settings.method
    (base,) = arm_settings(configured, [method]).values()
    thresholds = thresholds_for(base, opened.get(base))
    if factors is None:
        known = Base(method)
        if thresholds is not None:
            known = Base(
                method,
                thresholds.reward_threshold,
                thresholds.beta,
                thresholds.spread,
                bool(thresholds.quantiles) and base.threshold_from != ThresholdFrom.PROMPT,
            )
        factors = default_factors(known)
    has = dataclasses.asdict(method_params(base, thresholds))
    named = arm_settings(configured, sweep_arms(method, factors, grid=grid, known=has))
    if recalibrate:
        return named, thresholds_for
    if thresholds is not None and any(s.segment_size != base.segment_size for s in named.values()):
        _say_shared(thresholds, base.segment_size)

    def of_the_base(settings: Settings, models: compose.Models) -> Thresholds | None:
        # calibrations are filed by segment size: an arm's own would change the target as well
        return thresholds_for(dataclasses.replace(settings, segment_size=base.segment_size), models)

    return named, of_the_base


def _say_shared(thresholds: Thresholds, segment_size: int) -> None:
    values = {
        "alpha": thresholds.alpha,
        "beta": thresholds.beta,
        "reward_threshold": thresholds.reward_threshold,
        "spread": thresholds.spread,
    }
    shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items() if value is not None)
    print(
        f"stars-local: the thresholds for segments of {segment_size} tokens serve every segment "
        f"size: {shown}; --recalibrate gives each size its own",
        file=sys.stderr,
    )
