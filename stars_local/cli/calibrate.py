"""`stars-local calibrate`: solve the threshold for a wanted cost, by measurement."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stars_local.cli.options import with_settings
from stars_local.cli.terminal import neutralise
from stars_local.config import Configured, flag_of
from stars_local.core.errors import UsageError

if TYPE_CHECKING:
    from stars_local.calibration.calibrator import Plan
    from stars_local.calibration.records import Calibration, Measured
    from stars_local.core.records import Prompt

DEFAULT_ATTEMPTS = 3.0
# what is solved for, or is not looked at: plain answers, then STARS' ramp with the forced best
_IDLE = (
    *("method", "beta", "reward_threshold", "schedule", "threshold_from", "force", "boundary"),
    *("n", "k", "price", "budget", "width", "overlap", "max_decoded_tokens", "max_seconds"),
    *("grammar", "json_schema"),
)


@with_settings
def calibrate(
    configured: Configured,
    attempts: Annotated[
        float | None, typer.Option(help="Wanted mean attempts per segment. Default: 3.")
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(help="Instead: r* at this quantile of plain answers' rewards."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A file of prompts to solve on, as `eval` reads them. Default: 300 shipped ones."
        ),
    ] = None,
    check_prompts: Annotated[
        Path | None, typer.Option(help="The same, to check on. Default: 300 other shipped ones.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Most prompts of each set.", min=2)] = 300,
    draws: Annotated[int, typer.Option(help="Independent draws per segment.", min=2)] = 2,
    rounds: Annotated[int, typer.Option(help="Most rounds on STARS' own prefixes.", min=1)] = 4,
    slots: Annotated[int, typer.Option(help="Prompts drawn in lockstep.", min=1, max=40)] = 16,
    quick: Annotated[bool, typer.Option(help="Few prompts, no check: under a minute.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Also measure how partial rewards predict whole ones, into this folder."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: in this machine's folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the calibration as JSON.")] = False,
) -> None:
    """Measure which reward threshold costs how many attempts, and keep the answer.

    Plain answers give the spread of rewards and a first threshold; rounds on the method's own
    prefixes correct it; a check on other prompts says whether it holds. chat and generate use
    the file that this writes. Answers have 128 tokens and the seed is 0 where none is given.
    """
    if attempts is not None and quantile is not None:
        raise UsageError("--attempts and --quantile are both given: choose one aim")
    if quantile is not None and not 0 < quantile < 1:
        raise UsageError(f"--quantile is {quantile}: it lies between 0 and 1")
    from dataclasses import replace

    from stars_local import compose
    from stars_local.calibration.law import check_attempts
    from stars_local.calibration.quick import N_PROMPTS
    from stars_local.calibration.records import write_calibration
    from stars_local.calibration.run import calibrate as run
    from stars_local.calibration.run import quick_plan
    from stars_local.calibration.store import user_folder
    from stars_local.cli.progress import stages
    from stars_local.cohorts import layout_of_draws, longest_prompts
    from stars_local.data import CALIBRATION, CHECK, prompts_path
    from stars_local.evals.prompts import read_prompts
    from stars_local.reward.check import check_before_run

    settings = configured.settings
    for name in _IDLE:
        if configured.given(name):
            print(f"stars-local: {flag_of(name)} has no effect on calibrate", file=sys.stderr)
    if report is not None:
        from stars_local.cli.partial_report import need_plots, write_partial_report

        need_plots()

    def read(path: Path) -> list[Prompt]:
        return list(read_prompts(path, limit=limit, system=settings.system).prompts)

    solve_on = read(prompts_path(CALIBRATION) if prompts is None else prompts)
    check_on = read(prompts_path(CHECK) if check_prompts is None else check_prompts)
    if quick:
        solve_on, check_on = solve_on[:N_PROMPTS], []
    plan = replace(
        plan_of(configured),
        attempts=None
        if quantile is not None
        else (DEFAULT_ATTEMPTS if attempts is None else attempts),
        quantile=quantile,
        n_draws=draws,
        n_rounds=rounds,
        n_slots=slots,
    )
    plan = quick_plan(plan) if quick else plan
    if plan.attempts is not None:
        check_attempts(plan.attempts, plan.max_attempts)
    # opens the model to count, so only where the context's size hangs on it
    counts = settings.n_ctx is None
    (longest,) = longest_prompts(settings, [[*solve_on, *check_on]]) if counts else (None,)
    layout = layout_of_draws(settings, slots, draws, plan.max_new_tokens, longest)
    settings = replace(settings, n_ctx=layout.n_ctx)
    opened = compose.open_models(settings, n_sequences=layout.n_sequences, unified=layout.unified)
    with opened as models, stages() as on_progress:
        lm, rm = models.language, models.scoring
        plan = replace(plan, stop=compose.stop_strings(plan.stop, models))
        if not quick:
            for line in check_before_run(rm, settings.provider):
                print(f"stars-local: {neutralise(line)}", file=sys.stderr)
        key = compose.calibration_key(settings, models)
        found = run(lm, rm, key, plan, solve_on, check_on, on_progress, quick=quick)
        path = user_folder() / key.file_name if out is None else out
        write_calibration(found, path)
        if report is not None:
            write_partial_report(lm, rm, plan, check_on or solve_on, report, on_progress)
    if as_json:
        typer.echo(json.dumps(found.to_json(), allow_nan=False))
    else:
        _show(found, path)


def plan_of(configured: Configured) -> Plan:
    """How a calibration is made: as the options say, where someone chose them."""
    from stars_local.calibration.calibrator import Plan
    from stars_local.sampling_settings import sampling

    settings = configured.settings
    chosen = ("segment_size", "max_attempts", "max_new_tokens", "alpha", "seed")
    values = {name: getattr(settings, name) for name in chosen if configured.given(name)}
    return Plan(**values, sampling=sampling(settings), stop=settings.stop)


def _show(found: Calibration, path: Path) -> None:
    typer.echo(f"reward_threshold {found.reward_threshold:.4g}, alpha {found.alpha:g}")
    typer.echo(f"beta {found.beta:.4g}, spread of plain rewards {found.spread:.4g}")
    typer.echo(f"wanted     {found.wanted}")
    typer.echo(f"predicted  {_cost(found.predicted)}")
    if found.checked is not None:
        typer.echo(f"measured   {_cost(found.checked)}, other prompts")
    typer.echo("segment  mean reward  sd between prompts  sd within one")
    for row in found.by_position:
        between, within = row["between_variance"] ** 0.5, row["within_variance"] ** 0.5
        typer.echo(f"{row['segment']:7.0f}  {row['mean']:11.3f}  {between:18.3f}  {within:13.3f}")
    typer.echo(f"written to {neutralise(str(path))}")


def _cost(cost: Measured) -> str:
    low, high = cost.attempts_ci95
    return (
        f"{cost.attempts:.2f} attempts (95 %: {low:.2f} to {high:.2f}), "
        f"{100 * cost.forced_share:.1f} % forced; {cost.n_prompts} prompts"
    )
