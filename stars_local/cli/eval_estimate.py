"""What `eval` and `sweep` print on stderr before they draw: tokens and time by arm."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stars_local.compose import Models
    from stars_local.evals.runner import Plan, Shard


def show_estimate(plan: Plan, folders: Sequence[Path], shard: Shard, models: Models) -> None:
    """Print the estimate of what is missing; nothing where nothing is.

    folders: one of each turn; later turns are reckoned to cost what the first does.

    The rate is that of the folders' finished cohorts, else of the decode steps of `models`,
    which are measured where no earlier start left them. No prompt may be open.
    """
    from stars_local import compose
    from stars_local.evals import estimate
    from stars_local.evals.records import RESULTS, read_lines

    paths = [path for path in (folder / RESULTS for folder in folders) if path.exists()]
    lines = [line for path in paths for line in read_lines(path, forgive_last=True)]
    done = [line["arm"] for line in lines]
    a_turn = sum(len(group) for k, group in enumerate(plan.cohorts()) if shard.has(k))
    total = a_turn * len(folders)
    arms = [
        estimate.estimate_arm(arm.name, arm.params, total - done.count(arm.name), found)
        for arm in plan.arms
        if done.count(arm.name) < total
        for found in [_calibrated_attempts(arm.params)]
    ]
    if not arms:
        return
    rate = estimate.rate_of_lines(lines)
    if rate is None:
        costs = compose.measured_steps(models, widest=min(plan.width, compose.WIDEST_AUTO))
        rate = estimate.rate_of_steps(costs.by_width, plan.width)
    print(estimate.table(arms, rate), file=sys.stderr)


def _calibrated_attempts(params: Mapping[str, Any]) -> float | None:
    """Mean attempts that the arm's calibration measured, where the arm uses just its thresholds."""
    from stars_local.calibration.records import read_calibration
    from stars_local.calibration.store import calibration_folders

    paths = [folder / str(params["thresholds"]) for folder in calibration_folders()]
    path = next((each for each in paths if each.suffix == ".json" and each.is_file()), None)
    if path is None:
        return None
    found = read_calibration(path)
    used = [params[name] for name in ("segment_size", "alpha", "beta", "reward_threshold")]
    if used != [found.key.segment_size, found.alpha, found.beta, found.reward_threshold]:
        return None
    return (found.predicted if found.checked is None else found.checked).attempts
