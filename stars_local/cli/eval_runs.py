"""`stars-local eval merge` and `eval judge`: what is done with runs whose answers are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stars_local.cli.eval import Judge, Margin, show_summary, verdicts_on


def merge(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    shards: Annotated[list[Path], typer.Argument(help="The folders of the shards.")],
    margin: Margin = 0.0,
) -> None:
    """Join the shards of one run into one folder with its summary; second turns too."""
    from stars_local.evals.merge import merge_turns

    for summary in merge_turns(shards, out, margin=margin):
        show_summary(summary)


def judge(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run; it stays as it is.")],
    out: Annotated[Path, typer.Option(help="The folder to make; give it again to go on.")],
    judge: Judge = None,
    margin: Margin = 0.0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: every core.")] = 0,
) -> None:
    """Let further judges score the answers of a finished run; nothing is drawn again.

    OUT has the run's answers, its judges and the new ones, and a summary of all. Second turns
    are not taken along.
    """
    from stars_local.cli.judges import open_judges
    from stars_local.cli.progress import stages
    from stars_local.core.errors import UsageError
    from stars_local.evals.rejudge import judged_manifest, read_run, rejudge
    from stars_local.evals.summary import sum_up
    from stars_local.evals.verdicts import read_verdicts

    if not judge:
        raise UsageError("no judge: give --judge, once or more")
    finished = read_run(run)
    judges = open_judges(judge, finished.steerers, threads, finished.judges)
    try:
        single = {name: each.info.sha256 for name, each in judges.single.items()}
        pairs = {name: each.info.sha256 for name, each in judges.pairs.items()}
        wanted = judged_manifest(finished.manifest, single, pairs)
        lines = []
        with stages() as advance:
            for line in rejudge(finished, wanted, judges.single, out):
                lines.append(line)
                advance("judging", len(lines), len(finished.lines))
            list(verdicts_on(judges, lines, finished.prompts, out, advance))
    finally:
        judges.close()
    show_summary(sum_up(out, lines, wanted["run"], read_verdicts(out), margin))
