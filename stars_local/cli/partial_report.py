"""The report of `calibrate --report`: what a partial response's reward tells of the whole's."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path

import typer

from stars_local.calibration.calibrator import Calibrator, Plan
from stars_local.calibration.partial import Agreement, partial_agreement
from stars_local.core.errors import DataError, UsageError
from stars_local.core.ports import LanguageModel, RewardModel
from stars_local.core.progress import OnProgress
from stars_local.core.records import Prompt

N_ANSWERS = 4  # answers a prompt, six pairs


def write_partial_report(
    lm: LanguageModel,
    rm: RewardModel,
    plan: Plan,
    prompts: Sequence[Prompt],
    folder: Path,
    on_progress: OnProgress,
) -> None:
    """Draw plain answers, compare partial with whole rewards, print a table on stderr and write
    `partial.json` and `partial.svg`."""
    results = Calibrator(lm, rm, plan, on_progress).plain_answers(prompts, N_ANSWERS)
    rows = partial_agreement(results, plan.segment_size)
    if not rows:
        raise DataError("every answer has one segment only: nothing partial to compare")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "base_model": lm.info.weights_sha256,
            "reward_model": rm.info.sha256,
            "axis": rm.info.axis,
            "n_prompts": len(prompts),
            "answers_a_prompt": N_ANSWERS,
            "seed": plan.seed,
            "rows": [_finite(dataclasses.asdict(row)) for row in rows],
        }
        (folder / "partial.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        _plot(rows, folder / "partial.svg")
    except OSError as error:
        raise DataError(f"{folder}: cannot write the report: {error}") from error
    typer.echo("tokens  answers  Pearson  Spearman   pairs  agree", err=True)
    for row in rows:
        typer.echo(
            f"{row.n_tokens:6d}  {row.n_answers:7d}  {row.pearson:7.3f}  {row.spearman:8.3f}  "
            f"{row.n_pairs:6d}  {row.pair_agreement:5.3f}",
            err=True,
        )


def need_plots() -> None:
    """Raise UsageError where the report could not be drawn, before anything is measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("plots need matplotlib: pip install 'stars-local[report]'")


def _finite(row: dict[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in row.items()}


def _plot(rows: Sequence[Agreement], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    tokens = [row.n_tokens for row in rows]
    axes.plot(tokens, [row.pearson for row in rows], marker="o", label="Pearson")
    axes.plot(tokens, [row.spearman for row in rows], marker="s", label="Spearman")
    axes.plot(tokens, [row.pair_agreement for row in rows], marker="^", label="pair agreement")
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="tokens of the partial response", ylim=(0, 1), title="Partial against whole")
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
