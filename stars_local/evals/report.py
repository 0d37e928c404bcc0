"""A report of runs: one HTML page that needs nothing else, and the same as Markdown and JSON.

Model output is shown as text: everything is escaped, and the page runs no script.
"""

from __future__ import annotations

import dataclasses
import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from stars_local.core.errors import DataError
from stars_local.evals.judges import STEERING, quality_judge
from stars_local.evals.pictures import pictures
from stars_local.evals.records import (
    RESULTS,
    SUMMARY,
    Line,
    read_lines,
    read_manifest,
    write_atomically,
)
from stars_local.evals.summary import summarise
from stars_local.evals.tables import Table, number, shown, tables
from stars_local.evals.verdicts import read_verdicts

N_EXAMPLES = 5
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0 1rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
th { vertical-align: bottom; } td { white-space: nowrap; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; }
figcaption { font-size: .9rem; font-weight: 600; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
.answers > div { border: 1px solid #8886; border-radius: .4rem; padding: .6rem; min-width: 0; }
.question { border-left: 3px solid #8886; padding-left: .7rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: .3rem 0; }
details { font-size: .85rem; } details pre { border-left: 3px solid #8886; padding-left: .5rem; }
details pre.accepted { border-color: #2a9d5c; } details pre.forced { border-color: #d98c1f; }
details pre.rejected, details pre.spare { opacity: .7; }
@media (max-width: 30rem) { .figures { grid-template-columns: 1fr; } }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt; } table { font-size: 6.5pt; }
  th, td { padding: .1rem .25rem; white-space: normal; } .wide { overflow: visible; }
  figure, .answers > div, tr { break-inside: avoid; }
  .figures { grid-template-columns: 1fr 1fr; }
}
"""


def write_report(runs: Sequence[Path], out: Path) -> list[Path]:
    """Write report.html, report.md and report.json of these runs to a folder.

    The first judge that was not steered by stands for quality; without one the steering model
    does, and the page says so. Arms of one name in several runs are told apart by the run's
    folder. Returns the paths. Raises DataError for runs that cannot be read or have no answers.
    """
    manifests = [read_manifest(run) for run in runs]
    lines, verdicts = [], []
    times = Counter(arm for manifest in manifests for arm in manifest["run"]["arms"])
    for run in runs:

        def name(arm: str, folder: str = run.resolve().name) -> str:
            return arm if times[arm] < 2 else f"{arm} ({folder})"

        lines += [{**line, "arm": name(line["arm"])} for line in read_lines(run / RESULTS)]
        verdicts += [
            dataclasses.replace(each, first=name(each.first), second=name(each.second))
            for each in read_verdicts(run)
        ]
    if not lines:
        raise DataError(f"{runs[0]}: no answers yet: run 'stars-local eval' first")
    labels = {id: each for m in manifests for id, each in m["run"].get("labels", {}).items()}
    margin = max(_margin(run) for run in runs)
    summary = summarise(lines, labels, margin=margin, verdicts=verdicts)
    judge = quality_judge(list(lines[0]["rewards"]))
    note = _note(judge, [pair["judge"] for pair in summary["pairs"]], margin)
    made = tables(summary)
    drawn = pictures(summary, lines, STEERING if judge is None else judge)
    questions = {id: text for m in manifests for id, text in m.get("questions", {}).items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot make the folder: {error.strerror}") from error
    files = {
        "report.html": _html(made, drawn, note, lines, questions),
        "report.md": _markdown(made, note),
        "report.json": json.dumps({"summary": summary, "manifests": manifests}, allow_nan=False),
    }
    for file, text in files.items():
        write_atomically(out / file, text)
    return [out / file for file in files]


def _margin(run: Path) -> float:
    """The margin of ties that the run was summed up with; 0 before it was."""
    path = run / SUMMARY
    if not path.exists():
        return 0.0
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))["pairs"]
        return max((float(pair["margin"]) for pair in pairs), default=0.0)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: cannot read the summary of a run: {error}") from error


def _note(judge: str | None, of_pairs: Sequence[str], margin: float) -> str:
    parts = [
        "The steering model's reward is what the methods optimise: no evidence of quality.",
        "Intervals are 95 % bootstrap intervals over prompts; ties count half in win rates.",
    ]
    pairwise = next((name for name in of_pairs if name.startswith("llm ")), None)
    if pairwise is not None:
        parts.insert(1, f"{pairwise} judged pairs of answers; only verdicts of both orders count.")
    if judge is not None:
        parts.insert(1, f"{judge} is an independent judge.")
    elif pairwise is None:
        parts.insert(1, "No independent judge took part in this run.")
    if margin > 0:
        parts.append(f"Rewards that differ by no more than {margin:g} are ties.")
    return " ".join(parts)


def _html(
    made: Mapping[str, Table],
    drawn: Mapping[str, str],
    note: str,
    lines: Sequence[Line],
    questions: Mapping[str, str],
) -> str:
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'><title>Evaluation</title>",
        f"<style>{STYLE}</style></head><body><h1>Evaluation</h1><p>{html.escape(note)}</p>",
    ]
    for title, rows in made.items():
        parts.append(f"<h2>{html.escape(title)}</h2><div class='wide'>{html_table(rows)}</div>")
    parts.append("<h2>Pictures</h2><div class='figures'>")
    for caption, svg in drawn.items():
        escaped = html.escape(caption)
        parts.append(f"<figure><figcaption>{escaped}</figcaption>{svg}</figure>")
    parts.append("</div><h2>Examples</h2>")
    for name in list(dict.fromkeys(line["prompt_id"] for line in lines))[:N_EXAMPLES]:
        mine = [line for line in lines if line["prompt_id"] == name]
        parts.append(f"<h3>{html.escape(str(name))}</h3>")
        if name in questions:
            parts.append(f"<pre class='question'>{html.escape(questions[name])}</pre>")
        parts += ["<div class='answers'>", *map(_html_answer, mine), "</div>"]
    return "".join([*parts, "</body></html>\n"])


def html_table(rows: Table) -> str:
    """A table as HTML, its cells escaped; the first row is the head."""
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    text = [f"<table><thead><tr>{cells}</tr></thead><tbody>"]
    for row in body:
        text.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "".join([*text, "</tbody></table>"])


def _html_answer(line: Line) -> str:
    rewards = ", ".join(
        f"{shown(name)} {number(value, 2)}" for name, value in line["rewards"].items()
    )
    trace = "".join(
        f"<pre class='{attempt['outcome']}'>{attempt['segment']}.{attempt['index']} "
        f"{attempt['outcome']}, reward {number(attempt['reward'], 2)} against "
        f"{number(attempt['threshold'], 2)}: {html.escape(attempt['text'])}</pre>"
        for attempt in line["attempts"]
    )
    return (
        f"<div><strong>{html.escape(line['arm'])}</strong> ({html.escape(rewards)})"
        f"<pre>{html.escape(line['text'])}</pre>"
        f"<details><summary>{len(line['attempts'])} attempts</summary>{trace}</details></div>"
    )


def _markdown(made: Mapping[str, Table], note: str) -> str:
    parts = ["# Evaluation", "", note, ""]
    for title, (head, *body) in made.items():
        parts += [f"## {title}", "", markdown_row(head), "|" + " --- |" * len(head)]
        parts += [*map(markdown_row, body), ""]
    return "\n".join(parts)


def markdown_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
