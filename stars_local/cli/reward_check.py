"""`stars-local reward check`: is a reward model what it says, and how good is it?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stars_local.cli.terminal import neutralise
from stars_local.core.errors import RewardError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stars_local.reward.onnx_model import OnnxRewardModel


def reward_check(
    model: Annotated[
        str, typer.Argument(help="A folder with reward.json, or a shipped name.", metavar="DIR")
    ] = "hh-minilm",
    pairs: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead: accuracy on this preference file; repeat to pool several.",
            show_default=False,
        ),
    ] = None,
    axis: Annotated[str | None, typer.Option(help="The axis that the pairs are about.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="CSV of index, text that the pairs' prompts point into.")
    ] = None,
    better: Annotated[
        str | None, typer.Option(help="Label of the better rows of a labelled file.")
    ] = None,
    xstest: Annotated[
        list[Path] | None,
        typer.Option(
            help="Instead: refusals against compliances in these XSTest completions; repeat.",
            show_default=False,
        ),
    ] = None,
    provider: Annotated[str, typer.Option(help="auto, cpu, cuda or coreml.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check golden scores, independence of batches, the provider, and the speed.

    With --pairs: the share of pairs whose better response scores higher, with its 95 %
    interval, on whole responses and on their first 16, 32 and 64 tokens.
    """
    from stars_local.compose import render_chat
    from stars_local.reward.onnx_model import OnnxRewardModel
    from stars_local.reward.resolve import find_model

    if pairs and xstest:
        raise UsageError("--pairs and --xstest are two different checks: give one")
    if not pairs:
        named = {"--prompts": prompts, "--better": better, "--axis": None if xstest else axis}
        stray = next((flag for flag, value in named.items() if value is not None), None)
        if stray is not None:
            raise UsageError(f"{stray} belongs to --pairs FILE: give the pairs too")
    if pairs and axis is None:
        raise UsageError("--pairs needs --axis NAME: what do the pairs judge?")
    folder, shipped = find_model(model)
    opened = OnnxRewardModel(
        folder, provider=provider, threads=threads, trusted=shipped, render=render_chat
    )
    if pairs and axis is not None:
        found = _on_pairs(opened, pairs, axis, prompts, better)
        lines = _pair_lines(found)
    elif xstest:
        found = _on_xstest(opened, xstest, axis)
        lines = _xstest_lines(found)
    else:
        from stars_local.reward.check import check_model

        report = check_model(opened, provider)
        found, lines = report.to_json(), report.lines()
        if not report.passed and not as_json:
            raise RewardError(lines[0])
    typer.echo(json.dumps(found) if as_json else neutralise("\n".join(lines)))
    if found.get("passed") is False:
        raise typer.Exit(1)


def _on_pairs(
    model: OnnxRewardModel,
    files: Sequence[Path],
    axis: str,
    prompts: Path | None,
    better: str | None,
) -> dict[str, Any]:
    from stars_local.preferences.pairs import read_pairs
    from stars_local.reward.accuracy_on_pairs import pair_report

    model.manifest.axis(axis)
    read = [
        pair
        for file in files
        for pair in read_pairs(file, axis, prompts=prompts, better_label=better)
    ]
    if not read:
        raise UsageError(f"{files[0]}: no pairs in it")
    with _progress(f"{axis} pairs", len(read)) as tell:
        return pair_report(model, read, axis, tell).to_json()


def _on_xstest(model: OnnxRewardModel, files: Sequence[Path], axis: str | None) -> dict[str, Any]:
    from stars_local.reward.xstest import read_completions, refusal_aucs

    name = model.info.axis if axis is None else axis
    completions = read_completions(files)
    with _progress("completions", len(completions)) as tell:
        found = refusal_aucs(model, name, completions, tell)
    return {"axis": name, **{kind: each.to_json() for kind, each in found.items()}}


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, gone at the end; yields what is to be told the number done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    console = Console(stderr=True)
    about = TextColumn("{task.description}", markup=False)
    columns = (about, BarColumn(), MofNCompleteColumn(), Left())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(neutralise(what), total=total)
        yield lambda n: progress.update(task, completed=n)


def _pair_lines(found: dict[str, Any]) -> list[str]:
    low, high = found["ci95"]
    lines = [
        f"{found['axis']}: {found['accuracy']:.3f} [{low:.3f}, {high:.3f}] of "
        f"{found['pairs']} pairs, whole responses"
    ]
    for n, share in found["at_tokens"].items():
        low, high = found["at_tokens_ci95"][n]
        lines.append(f"  first {n} tokens: {share:.3f} [{low:.3f}, {high:.3f}]")
    return lines


def _xstest_lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for kind in ("unsafe", "safe"):
        each = found[kind]
        lines.append(
            f"{kind} prompts: a refusal beats a compliance on {found['axis']} with AUC "
            f"{each['auc']:.3f} [{each['ci95'][0]:.3f}, {each['ci95'][1]:.3f}]"
            f" ({each['refusals']} refusals, {each['compliances']} compliances)"
        )
    return lines
