"""Give a finished run further judges: its answers stay, and are written with more rewards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stars_local.core.errors import DataError, UsageError
from stars_local.core.plain import finite
from stars_local.core.ports import RewardModel
from stars_local.core.records import Message, Prompt
from stars_local.evals.judges import is_steering
from stars_local.evals.records import (
    RESULTS,
    Line,
    ResultsFile,
    claim,
    held,
    need_every_answer,
    read_lines,
)
from stars_local.evals.verdicts import append_verdict, read_verdicts


def prompts_of(manifest: Mapping[str, Any], where: Path) -> dict[str, Prompt]:
    """The prompts of a run by id, as its manifest has them: what judges were asked with."""
    prefill = str(manifest["run"].get("prefill", ""))
    found = {}
    try:
        for name, asked in manifest["questions"].items():
            if isinstance(asked, str):
                found[name] = Prompt(name, text=asked, prefill=prefill)
            else:
                said = tuple(Message(each["role"], each["content"]) for each in asked)
                found[name] = Prompt(name, said, prefill=prefill)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{where}: the manifest does not say what was asked: {error!r}") from error
    return found


def steered_by(manifest: Mapping[str, Any]) -> list[str]:
    """The digests of the models that steered a run's arms."""
    judges = manifest["run"].get("judges", {})
    return [digest for name, digest in judges.items() if is_steering(name)]


def whole_lines(folder: Path, run: Mapping[str, Any]) -> list[Line]:
    """The lines of a finished run; DataError for one that lacks answers."""
    lines = list(read_lines(folder / RESULTS))
    need_every_answer(run, {(line["arm"], line["prompt_id"]) for line in lines}, "the run")
    if any(line.get("turn", 1) != 1 for line in lines):
        raise UsageError(f"{folder} has second turns, each arm's own: give the run of the first")
    return lines


def judged_manifest(
    manifest: Mapping[str, Any], single: Mapping[str, str], pairs: Mapping[str, str]
) -> dict[str, Any]:
    """The manifest with further judges, of answers and of pairs: digests by name."""
    run = dict(manifest["run"])
    run["judges"] = {**run.get("judges", {}), **single}
    if pairs:
        run["judges_of_pairs"] = {**run.get("judges_of_pairs", {}), **pairs}
    return {**manifest, "run": run}


def rejudge(
    folder: Path,
    lines: Sequence[Line],
    manifest: Mapping[str, Any],
    prompts: Mapping[str, Prompt],
    judges: Mapping[str, RewardModel],
    out: Path,
) -> Iterator[Line]:
    """Write a run's lines and verdicts to `out`, with the rewards of further judges; yields each
    line when it is on disk. Stopped, it goes on with the same call.

    manifest: of `out`. Raises UsageError where `out` holds another run.
    """
    claim(out, manifest)
    with held(out):
        known = read_verdicts(out)
        for verdict in read_verdicts(folder):
            if verdict not in known:
                append_verdict(out, verdict)
        cohorts: dict[tuple[str, int], list[str]] = defaultdict(list)
        for line in lines:
            cohorts[line["arm"], line["cohort"]].append(line["prompt_id"])
        file = ResultsFile(out)
        kept = file.resume(cohorts)
        yield from kept
        done = {(line["arm"], line["cohort"]) for line in kept}
        for line in lines:
            if (line["arm"], line["cohort"]) not in done:
                item = (prompts[line["prompt_id"]], line["text"])
                more = {
                    name: finite(judge.score([item]).rewards[0].value)
                    for name, judge in judges.items()
                }
                file.append(new := {**line, "rewards": {**line["rewards"], **more}})
                yield new
