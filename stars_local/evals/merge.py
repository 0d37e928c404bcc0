"""Join the shards of one run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stars_local.core.errors import DataError, UsageError
from stars_local.evals.records import (
    RESULTS,
    SUMMARY,
    Line,
    claim,
    read_lines,
    read_manifest,
    to_text,
    write_atomically,
)
from stars_local.evals.summary import summarise


def merge_runs(shards: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write the answers of all shards to `out`, each once, and return the summary.

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
    missing = [
        (arm, name) for arm in run["arms"] for name in run["prompt_ids"] if (arm, name) not in lines
    ]
    if missing:
        arm, name = missing[0]
        raise DataError(
            f"{len(missing)} answers are missing, the first is {arm} on {name}: "
            "finish the shards first"
        )
    claim(out, manifests[0])
    ordered = [lines[arm, name] for name in run["prompt_ids"] for arm in run["arms"]]
    write_atomically(out / RESULTS, "".join(map(to_text, ordered)))
    summary = summarise(ordered)
    write_atomically(out / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return summary
