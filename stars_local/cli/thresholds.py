"""What a command needs of its models before the first answer, while the person watches:
thresholds (given, calibrated, or calibrated now) and the speed of wide batches."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from stars_local import compose
from stars_local.calibration import quick
from stars_local.calibration.records import Calibration, CalibrationKey
from stars_local.method_settings import Thresholds, spec_of
from stars_local.settings import AUTO, Settings

if TYPE_CHECKING:
    from stars_local.calibration.calibrator import Plan

_SHOWN_AFTER_S = 2.0


def thresholds_for(
    settings: Settings, models: compose.Models, n_prompts: int = quick.N_PROMPTS, n_slots: int = 12
) -> Thresholds | None:
    """What `compose.find_thresholds` finds; where a calibration is missing, a quick one.

    With few prompts it takes under a minute. It shows its progress on stderr, prints its interval,
    and is kept. n_slots: most prompts in lockstep, as far as the context has sequences.
    """

    def calibrate(key: CalibrationKey) -> Calibration:
        from stars_local.calibration.calibrator import Plan
        from stars_local.calibration.run import calibrate_quickly
        from stars_local.cli.progress import stages

        _say("no calibration of these models yet: measuring one, once")
        # kept for later runs, so made with the defaults and not with this run's limits
        plan = Plan(
            segment_size=settings.segment_size,
            n_draws=quick.N_DRAWS,
            stop=compose.stop_strings((), models),
        )
        plan = replace(plan, n_slots=_slots(plan, models.language.capacity, n_slots))
        with stages() as on_progress:
            found = calibrate_quickly(
                models.language, models.scoring, key, plan, on_progress, n_prompts
            )
        low, high = found.predicted.attempts_ci95
        _say(
            f"reward_threshold {found.reward_threshold:.3g} for {found.predicted.attempts:.1f} "
            f"attempts per segment (95 %: {low:.1f} to {high:.1f}, "
            f"{found.predicted.n_prompts} prompts)"
        )
        return found

    return compose.find_thresholds(settings, models, calibrate, n_prompts)


def _slots(plan: Plan, capacity: tuple[int, int], most: int) -> int:
    """Prompts in lockstep: each has a trunk, a kept loser, and its draws at once."""
    n_cells, n_sequences = capacity
    of_a_prompt = quick.PROMPT_TOKENS + plan.max_new_tokens + plan.n_draws * plan.segment_size
    return max(1, min(most, n_sequences // (2 + plan.n_draws), n_cells // of_a_prompt))


def measure_widths(settings: Settings, models: compose.Models) -> None:
    """Where `--width auto` will ask for it, measure what wide batches cost; kept for later runs."""
    if settings.width != AUTO or not spec_of(settings).scores:
        return
    from stars_local.cli.progress import stages

    with stages(after_s=_SHOWN_AFTER_S) as on_progress:
        compose.measured_steps(models, on_progress)


def _say(line: str) -> None:
    print(f"stars-local: {line}", file=sys.stderr)
