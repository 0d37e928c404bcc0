"""A report of runs: one HTML page that needs nothing else, and the same as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from stars_local.core.errors import DataError
from stars_local.core.progress import OnProgress, silent
from stars_local.evals.examples import examples_of
from stars_local.evals.joined import join
from stars_local.evals.judges import STEERING, quality_judge
from stars_local.evals.pictures import pictures
from stars_local.evals.records import write_atomically
from stars_local.evals.report_html import html_page
from stars_local.evals.report_markdown import markdown_page
from stars_local.evals.sections import notes, sections
from stars_local.evals.summary import judges_of, summarise


def write_report(runs: Sequence[Path], out: Path, advance: OnProgress = silent) -> list[Path]:
    """Write report.html, report.md and report.json of these runs to a folder.

    The first judge that was not steered by stands for quality; without one the steering model
    does, and the page says so. What only has the same name in several runs is told apart by the
    run's folder. advance: told of what is done, in stages. Returns the paths. Raises DataError
    for runs that cannot be read or have no answers, UsageError for a run given twice.
    """
    joined = join(runs, advance)
    summary = summarise(
        joined.lines,
        joined.labels,
        margin=joined.margin,
        verdicts=joined.verdicts,
        params=joined.params,
        advance=advance,
    )
    judge = quality_judge(judges_of(joined.lines))
    said, made = notes(joined, summary, judge), sections(joined, summary, judge)
    drawn = pictures(summary, joined.lines, STEERING if judge is None else judge, advance)
    examples = examples_of(joined.lines, joined.prompts, joined.questions)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot make the folder: {error.strerror}") from error
    plain = {
        "notes": said,
        "summary": summary,
        "manifests": list(joined.manifests.values()),
        "examples": [example.plain() for example in examples],
    }
    files = {
        "report.html": html_page(said, made, drawn, examples),
        "report.md": markdown_page(said, made, examples),
        "report.json": json.dumps(plain, allow_nan=False),
    }
    for file, text in files.items():
        write_atomically(out / file, text)
    return [out / file for file in files]
