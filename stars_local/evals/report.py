"""A report of runs: one HTML page that needs nothing else, and the same as Markdown and JSON.

Model output is shown as text: everything is escaped, and the page runs no script.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stars_local.core.errors import DataError
from stars_local.evals.pictures import pictures
from stars_local.evals.records import RESULTS, Line, read_lines, read_manifest, write_atomically
from stars_local.evals.summary import STEERING, summarise

N_EXAMPLES = 5
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; margin: 1rem 0; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
.answers > div { border: 1px solid #8886; border-radius: .4rem; padding: .6rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: .3rem 0; }
.rejected, .spare { opacity: .6; } .accepted, .forced { font-weight: 600; }
@media print { details { break-inside: avoid; } }
"""
Table = list[list[str]]


def write_report(runs: Sequence[Path], out: Path) -> list[Path]:
    """Write report.html, report.md and report.json of these runs to a folder.

    The first judge beside the steering model stands for quality; without one the steering model
    does, and the page says so. Returns the paths.
    """
    lines = [line for run in runs for line in read_lines(run / RESULTS)]
    if not lines:
        raise DataError(f"{runs[0]}: no answers yet: run 'stars-local eval' first")
    manifests = [read_manifest(run) for run in runs]
    summary = summarise(lines)
    judge = next((name for name in lines[0]["rewards"] if not name.startswith(STEERING)), STEERING)
    tables = {"Arms": _arms(summary), "Pairs of arms": _pairs(summary)}
    note = _note(judge)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot make the folder: {error.strerror}") from error
    drawn = pictures(summary, lines, judge)
    files = {
        "report.html": _html(tables, drawn, note, lines),
        "report.md": _markdown(tables, note),
        "report.json": json.dumps({"summary": summary, "manifests": manifests}, allow_nan=False),
    }
    for name, text in files.items():
        write_atomically(out / name, text)
    return [out / name for name in files]


def _note(judge: str) -> str:
    optimised = "The steering model's reward is what the methods optimise: no evidence of quality."
    if judge == STEERING:
        return f"{optimised} No independent judge took part in this run."
    return f"{optimised} {judge} is an independent judge."


def _arms(summary: Mapping[str, Any]) -> Table:
    judges = list(next(iter(summary["arms"].values()))["rewards"])
    head = ["arm", "n", *judges, "decoded", "kept", "RM tokens", "attempts", "forced", "refusals"]
    rows = [head]
    for name, arm in summary["arms"].items():
        rows.append(
            [
                name,
                str(arm["n"]),
                *(_interval(arm["rewards"][judge]) for judge in judges),
                _number(arm["n_decoded_tokens"], 0),
                _number(arm["n_kept_tokens"], 0),
                _number(arm["n_rm_tokens"], 0),
                _interval(arm["attempts"]),
                _interval(arm["forced_share"], percent=True),
                _interval(arm["refusals"]["all"], percent=True),
            ]
        )
    return rows


def _pairs(summary: Mapping[str, Any]) -> Table:
    rows = [["pair", "judge", "win", "tie", "loss", "win rate", "length-controlled", "difference"]]
    for pair in summary["pairs"]:
        rows.append(
            [
                f"{pair['first']} over {pair['second']}",
                pair["judge"],
                *(f"{100 * pair[key]:.0f} %" for key in ("win", "tie", "loss")),
                _interval(pair["win_rate"], percent=True),
                _interval(pair["length_controlled_win_rate"], percent=True),
                _interval(pair["difference"]),
            ]
        )
    return rows


def _html(
    tables: Mapping[str, Table], drawn: Mapping[str, str], note: str, lines: Sequence[Line]
) -> str:
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'><title>Evaluation</title>",
        f"<style>{_STYLE}</style></head><body><h1>Evaluation</h1><p>{html.escape(note)}</p>",
    ]
    for title, rows in tables.items():
        parts.append(f"<h2>{html.escape(title)}</h2>{_html_table(rows)}")
    for caption, svg in drawn.items():
        escaped = html.escape(caption)
        parts.append(f"<figure><figcaption>{escaped}</figcaption>{svg}</figure>")
    parts.append("<h2>Examples</h2>")
    for name in list(dict.fromkeys(line["prompt_id"] for line in lines))[:N_EXAMPLES]:
        mine = [line for line in lines if line["prompt_id"] == name]
        parts.append(f"<h3>{html.escape(str(name))}</h3><div class='answers'>")
        parts += [_html_answer(line) for line in mine]
        parts.append("</div>")
    return "".join([*parts, "</body></html>\n"])


def _html_table(rows: Table) -> str:
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    text = [f"<table><thead><tr>{cells}</tr></thead><tbody>"]
    for row in body:
        text.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "".join([*text, "</tbody></table>"])


def _html_answer(line: Line) -> str:
    rewards = ", ".join(f"{name} {_number(value, 2)}" for name, value in line["rewards"].items())
    trace = "".join(
        f"<pre class='{attempt['outcome']}'>{attempt['segment']}.{attempt['index']} "
        f"{attempt['outcome']}, reward {_number(attempt['reward'], 2)} against "
        f"{_number(attempt['threshold'], 2)}: {html.escape(attempt['text'])}</pre>"
        for attempt in line["attempts"]
    )
    return (
        f"<div><strong>{html.escape(line['arm'])}</strong> ({html.escape(rewards)})"
        f"<pre>{html.escape(line['text'])}</pre>"
        f"<details><summary>{len(line['attempts'])} attempts</summary>{trace}</details></div>"
    )


def _markdown(tables: Mapping[str, Table], note: str) -> str:
    parts = ["# Evaluation", "", note, ""]
    for title, (head, *body) in tables.items():
        parts += [f"## {title}", "", _markdown_row(head), "|" + " --- |" * len(head)]
        parts += [*map(_markdown_row, body), ""]
    return "\n".join(parts)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _interval(estimate: Mapping[str, float | None], *, percent: bool = False) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None or low is None or high is None:
        return "–"
    if percent:
        return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
