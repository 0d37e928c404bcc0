"""A report as one HTML page that needs nothing else.

Model output is shown as text: everything is escaped, and the page runs no script.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from stars_local.evals.examples import Example, attempt_text, rewards_text
from stars_local.evals.records import Line
from stars_local.evals.sections import Section
from stars_local.evals.tables import Table

_STYLE = """
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
.note { font-size: .9rem; margin: 0; }
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


def html_page(
    notes: Sequence[str],
    sections: Sequence[Section],
    drawn: Mapping[str, str],
    examples: Sequence[Example],
) -> str:
    """The page. drawn: pictures as SVG by their captions."""
    parts = [f"<p>{html.escape(' '.join(notes))}</p>", *map(_section, sections), figures(drawn)]
    parts.append("<h2>Examples</h2>")
    for example in examples:
        parts.append(f"<h3>{html.escape(example.prompt_id)}</h3>")
        if example.question:
            parts.append(f"<pre class='question'>{html.escape(example.question)}</pre>")
        parts += ["<div class='answers'>", *map(_answer, example.answers), "</div>"]
    return whole_page("Evaluation", "".join(parts))


def whole_page(title: str, body: str) -> str:
    """A page with its head and style around markup."""
    escaped = html.escape(title)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='viewport' content='width=device-width'><title>{escaped}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{escaped}</h1>{body}</body></html>\n"
    )


def figures(drawn: Mapping[str, str]) -> str:
    """Pictures as SVG under their captions."""
    found = [
        f"<figure><figcaption>{html.escape(caption)}</figcaption>{svg}</figure>"
        for caption, svg in drawn.items()
    ]
    return f"<h2>Pictures</h2><div class='figures'>{''.join(found)}</div>"


def html_table(rows: Table) -> str:
    """A table as HTML, its cells escaped; the first row is the head."""
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    text = [f"<table><thead><tr>{cells}</tr></thead><tbody>"]
    for row in body:
        text.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "".join([*text, "</tbody></table>"])


def _section(section: Section) -> str:
    title, table = html.escape(section.title), html_table(section.table)
    note = f"<p class='note'>{html.escape(section.note)}</p>" if section.note else ""
    body = f"{note}<div class='wide'>{table}</div>"
    if section.folded:
        body = f"<details><summary>{len(section.table) - 1} rows</summary>{body}</details>"
    return f"<h2>{title}</h2>{body}"


def _answer(line: Line) -> str:
    trace = "".join(
        f"<pre class='{html.escape(attempt['outcome'])}'>{html.escape(attempt_text(attempt))}: "
        f"{html.escape(attempt['text'])}</pre>"
        for attempt in line["attempts"]
    )
    return (
        f"<div><strong>{html.escape(line['arm'])}</strong> ({html.escape(rewards_text(line))})"
        f"<pre>{html.escape(line['text'])}</pre>"
        f"<details><summary>{len(line['attempts'])} attempts</summary>{trace}</details></div>"
    )
