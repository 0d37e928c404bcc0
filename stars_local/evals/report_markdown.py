"""A report as Markdown: the tables, and the examples folded beneath them.

Model output is shown as text, in `pre` blocks, its angle brackets escaped: nothing in it is markup.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from stars_local.evals.examples import Example, attempt_text, rewards_text
from stars_local.evals.records import Line
from stars_local.evals.sections import Section
from stars_local.evals.tables import Table


def markdown_page(
    notes: Sequence[str], sections: Sequence[Section], examples: Sequence[Example]
) -> str:
    """The page."""
    parts = ["# Evaluation", "", *(f"- {note}" for note in notes), ""]
    for section in sections:
        parts += [f"## {_plain(section.title)}", ""]
        parts += [_plain(section.note), ""] if section.note else []
        table = [*markdown_table(section.table), ""]
        if section.folded:
            table = _folded(f"{len(section.table) - 1} rows", table)
        parts += table
    parts += ["## Examples", ""]
    for example in examples:
        parts += [f"### {_plain(example.prompt_id)}", ""]
        parts += [_pre(example.question), ""] if example.question else []
        for line in example.answers:
            parts += _answer(line)
    return "\n".join(parts)


def markdown_table(rows: Table) -> list[str]:
    """A table's lines; its first row is the head."""
    head, *body = rows
    return [markdown_row(head), "|" + " --- |" * len(head), *map(markdown_row, body)]


def markdown_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _answer(line: Line) -> list[str]:
    attempts = [f"{attempt_text(each)}: {each['text']}" for each in line["attempts"]]
    head = f"{line['arm']} ({rewards_text(line)}), {len(attempts)} attempts"
    return _folded(head, [_pre(line["text"]), "", _pre("\n".join(attempts)), ""])


def _folded(title: str, body: Sequence[str]) -> list[str]:
    escaped = html.escape(title, quote=False)
    return ["<details>", f"<summary>{escaped}</summary>", "", *body, "</details>", ""]


def _pre(text: str) -> str:
    return f"<pre>{html.escape(text, quote=False)}</pre>"


def _plain(text: str) -> str:
    """Text on one line that is no markup of HTML."""
    return html.escape(" ".join(text.split()), quote=False)
