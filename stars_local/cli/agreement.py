"""`stars-local eval agreement`: how far the refusal rules agree with people."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer


def agreement(
    files: Annotated[list[Path], typer.Argument(help="XSTest completions with final_label.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Hold `--judge refusal` against people's labels, file by file and all together.

    Partial refusals, which people themselves found hard to tell, are left out.
    """
    from stars_local.core.errors import DataError
    from stars_local.evals.refusals import agreement as measure
    from stars_local.reward.xstest import read_completions

    read = {path.name: read_completions([path]) for path in files}
    groups = {**read, "all": [each for rows in read.values() for each in rows]}
    found = {}
    for name, rows in groups.items():
        sure = [row for row in rows if not row.label.endswith("partial_refusal")]
        if not sure:
            raise DataError(f"{name}: no full refusals or compliances in it")
        labelled = [(row.response, row.label.endswith("full_refusal")) for row in sure]
        found[name] = dataclasses.asdict(measure(labelled))
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, each in found.items():
        typer.echo(
            f"{name}: accuracy {each['accuracy']:.3f}, precision {each['precision']:.3f}, "
            f"recall {each['recall']:.3f} of {each['n']} completions"
        )
