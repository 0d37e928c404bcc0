"""Join the shards of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stars_local.core.errors import UsageError
from stars_local.evals.records import (
    RESULTS,
    Line,
    claim,
    need_every_answer,
    read_lines,
    read_manifest,
    to_text,
    write_atomically,
)
from stars_local.evals.summary import sum_up
from stars_local.evals.turns import SECOND
from stars_local.evals.verdicts import add_verdicts, read_verdicts


def merge_turns(shards: Sequence[Path], out: Path, *, margin: float = 0.0) -> list[dict[str, Any]]:
    """Merge the runs, and those of their second turns where they have them; a summary a turn.

    Raises what `merge_runs` does, and UsageError where only some shards have second turns.
    """
    second = [folder / SECOND for folder in shards]
    without = [folder for folder in second if not folder.exists()]
    if without and len(without) < len(second):
        raise UsageError(f"{without[0]} is missing: finish that shard with --turns 2 first")
    summaries = [merge_runs(shards, out, margin=margin)]
    if not without:
        summaries.append(merge_runs(second, out / SECOND, margin=margin))
    return summaries


def merge_runs(shards: Sequence[Path], out: Path, *, margin: float = 0.0) -> dict[str, Any]:
    """Write the answers of all shards to `out`, each once, and return the summary.

    margin: as of `summarise`. Labels of prompts come from the manifest.
    Raises UsageError where the shards are not of one run, DataError where answers are missing.
    """
    manifests = [read_manifest(folder) for folder in shards]
    for folder, manifest in zip(shards, manifests, strict=True):
        if manifest["run"] != manifests[0]["run"]:
            raise UsageError(f"{folder} is not a shard of the run in {shards[0]}: leave it out")
    lines: dict[tuple[str, str], Line] = {}
    for folder in shards:
        for line in read_lines(folder / RESULTS):
            lines[line["arm"], line["prompt_id"]] = line
    run = manifests[0]["run"]
    need_every_answer(run, lines, "the shards")
    claim(out, manifests[0])
    ordered = [lines[arm, name] for name in run["prompt_ids"] for arm in run["arms"]]
    write_atomically(out / RESULTS, "".join(map(to_text, ordered)))
    add_verdicts(out, (each for folder in shards for each in read_verdicts(folder)))
    return sum_up(out, ordered, run, read_verdicts(out), margin)
