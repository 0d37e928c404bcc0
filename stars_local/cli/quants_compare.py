"""`stars-local quants compare`: what each file lost, and what decoding gives back."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stars_local.cli.models_shared import AsJson
from stars_local.cli.options import with_settings
from stars_local.cli.terminal import neutralise
from stars_local.config import Configured
from stars_local.core.errors import StarsError, UsageError

if TYPE_CHECKING:
    from stars_local.core.ports import RewardModel
    from stars_local.evals.prompts import PromptSet

# with those of a quick calibration, r* would scatter from file to file as much as rewards do
_CALIBRATION_PROMPTS = 64


@with_settings
def compare_command(
    configured: Configured,
    reference: Annotated[Path, typer.Argument(help="The file that the others came from.")],
    out: Annotated[Path, typer.Option(help="The folder of the run; give it again to go on.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="The files to compare with it.")
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(help="Make these types of the reference, and compare them as well."),
    ] = None,
    types_out: Annotated[
        Path | None, typer.Option(help="The folder for the files of --types. Default: OUT/files.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts. Default: shipped ones of our own writing.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Most prompts.", min=3)] = None,
    judge: Annotated[
        list[str] | None, typer.Option(metavar="reward:DIR", help="An independent judge.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text for perplexity and KL. Default: a shipped one.")
    ] = None,
    window: Annotated[int, typer.Option(help="Tokens of a window.", min=8, max=512)] = 256,
    windows: Annotated[int, typer.Option(help="Most windows.", min=2)] = 40,
    cohort: Annotated[int, typer.Option(help="Prompts drawn together.", min=1, max=80)] = 8,
    as_json: AsJson = False,
) -> None:
    """Compare quantised files with their reference: fidelity, alignment, and what STARS restores.

    Goes on where it was stopped. A file that fails is left out, and the exit code is 1.
    """
    from stars_local import arms
    from stars_local.cli.progress import stages
    from stars_local.cli.quants_rows import Run, rows_of
    from stars_local.cli.thresholds import thresholds_for
    from stars_local.data import reference_text
    from stars_local.evals.records import write_atomically
    from stars_local.quants.report import write_report
    from stars_local.quants.rows import STARS, VANILLA, advice, pareto

    found, labels = _prompts(prompts, limit, configured.settings.system)
    given = reference_text() if text is None else _read(text)
    named = arms.arm_settings(configured, [VANILLA, STARS])
    held = arms.Opened(cohort)
    steering = held.reward(named[STARS])
    judges = _open_judges(judge or (), steering)
    every = _with_types(
        reference, files or (), types, out / "files" if types_out is None else types_out
    )
    with stages() as say:
        run = Run(
            configured,
            out,
            found,
            labels,
            named,
            held.rewards,
            judges,
            given,
            window,
            windows,
            cohort,
            partial(thresholds_for, n_prompts=_CALIBRATION_PROMPTS, n_slots=24),
            say,
        )
        rows = rows_of(run, reference, every)
    name = next(iter(judges), "steering")
    result = {
        "files": rows,
        "judge": name,
        "pareto": pareto(rows, name),
        "advice": advice(rows, name),
    }
    write_atomically(out / "comparison.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_report(result, out)
    if as_json:
        typer.echo(json.dumps(result, allow_nan=False))
    else:
        _show(result, out)
    failed = [row for row in rows if "error" in row]
    if failed:
        raise StarsError(
            f"{len(failed)} of {len(rows)} files failed, the first is {failed[0]['name']}: "
            f"{failed[0]['error']}"
        )


def _prompts(
    source: Path | None, limit: int | None, system: str | None
) -> tuple[PromptSet, dict[str, dict[str, str]]]:
    """The prompts and what their file says of each; the shipped ones without a file."""
    from stars_local.data import CHECK, prompts_path, shipped_kinds
    from stars_local.evals.prompts import read_prompts

    if source is not None:
        found = read_prompts(source, limit=limit, system=system)
        return found, {key: dict(each) for key, each in found.labels.items()}
    found = read_prompts(prompts_path(CHECK), limit=limit, system=system)
    return found, {key: {"label": kind} for key, kind in shipped_kinds(CHECK).items()}


def _open_judges(texts: Sequence[str], steering: RewardModel) -> dict[str, RewardModel]:
    """The independent judges; UsageError for one that steers, or is no reward model."""
    from stars_local.cli.judges import open_judges
    from stars_local.reward.combine import digests_of

    wrong = next((each for each in texts if not each.startswith("reward:")), None)
    if wrong is not None:
        raise UsageError(f"--judge {wrong}: give reward:DIR, a folder with a reward model")
    judges = open_judges(texts, digests_of(steering), 0).single
    if not judges:
        print(
            "stars-local: no --judge: quality is told by refusal rules and the steering reward, "
            "which STARS optimises",
            file=sys.stderr,
        )
    return judges


def _with_types(reference: Path, files: Sequence[Path], types: str | None, out: Path) -> list[Path]:
    """All files to compare with the reference; those of --types are made where they are missing.
    Raises UsageError where there is none, and for what headers tell apart."""
    from stars_local.cli.quants_files import check_alike, make_types
    from stars_local.quants.make import parse_types

    wanted = () if types is None else parse_types(types)
    if not files and not wanted:
        raise UsageError("nothing to compare: give files, or --types to make them")
    check_alike(reference, files)
    made = make_types(reference, wanted, out) if wanted else []
    return [*files, *(each.listing.path for each in made)]


def _read(path: Path) -> str:
    from stars_local.core.errors import DataError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the text: {error}") from error


def _show(result: dict[str, Any], out: Path) -> None:
    for row in result["files"]:
        if "error" in row:
            typer.echo(neutralise(f"{row['name']}: failed: {row['error']}"))
            continue
        kl = row["kl"]["mean"]["value"]
        parts = [f"{row['name']}: {row['bpw']:.2f} bits/weight", f"ppl {row['ppl']['value']:.3f}"]
        parts.append(f"KL {kl:.4f}")
        for arm in ("vanilla", "stars", "stars-own"):
            if arm in row:
                mean = row[arm]["rewards"][result["judge"]]["value"]
                parts.append(f"{arm} {'–' if mean is None else f'{mean:.3f}'}")
        typer.echo(neutralise("  ".join(parts)))
    typer.echo(neutralise(result["advice"]))
    typer.echo(neutralise(f"report: {out / 'report.html'}"))
