"""`stars-local report`: evaluation runs on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of `stars-local eval`.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write to. Default: the first run's.")
    ] = None,
) -> None:
    """Write report.html, report.md and report.json; the page opens from disk."""
    from stars_local.cli.progress import stages
    from stars_local.evals.report import write_report

    with stages(after_s=2.0) as advance:
        written = write_report(runs, runs[0] if out is None else out, advance)
    for path in written:
        typer.echo(path)
