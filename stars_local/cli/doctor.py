"""`stars-local doctor`: what works on this machine, each part tried; fit for a bug report."""

from __future__ import annotations

import json
import re
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from stars_local.cli.models_shared import AsJson, ModelsDir

if TYPE_CHECKING:
    from stars_local.doctor.checks import Check

_MARKS = {"good": "ok", "warning": "WARN", "failure": "FAIL"}
_COLUMNS = 80
_INDENT = 20


def doctor(
    model: Annotated[
        str, typer.Option(help="Language model: a known name or a GGUF file.", metavar="NAME|FILE")
    ] = "SmolLM2-135M-Instruct.Q4_1",
    reward: Annotated[
        str, typer.Option(help="Reward model: a shipped name or a folder.", metavar="NAME|DIR")
    ] = "hh-minilm",
    models_dir: ModelsDir = None,
    as_json: AsJson = False,
) -> None:
    """Say what works here; exit code 1 where something fails. Shows no prompt and no answer."""
    from stars_local.cli.terminal import neutralise
    from stars_local.doctor.checks import exit_code
    from stars_local.doctor.examination import examine

    found = []
    for check in examine(model, reward, models_dir):
        found.append(check)
        if not as_json:
            typer.echo(neutralise(page(check)))
    if as_json:
        rows = [
            {
                "name": check.name,
                "state": check.state,
                "found": _home_hidden(check.found),
                "remedy": None if check.remedy is None else _home_hidden(check.remedy),
            }
            for check in found
        ]
        typer.echo(json.dumps({"schema": 1, "exit_code": exit_code(found), "checks": rows}))
    raise typer.Exit(exit_code(found))


def page(check: Check) -> str:
    """A finding as lines of at most 80 columns, the remedy on lines of its own."""
    head = f"{_MARKS[check.state]:4} {check.name:{_INDENT - 6}} "
    rest = " " * _INDENT

    def folded(text: str, first: str) -> str:
        plain = " ".join(text.split())
        return textwrap.fill(
            plain, _COLUMNS, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
        )

    lines = [folded(_home_hidden(check.found), head)]
    if check.remedy is not None:
        lines.append(folded(f"-> {_home_hidden(check.remedy)}", rest))
    return "\n".join(lines)


def _home_hidden(text: str) -> str:
    from pathlib import Path

    home = str(Path.home())
    return re.sub(re.escape(home) + r"(?![\w.-])", "~", text) if home != "/" else text
