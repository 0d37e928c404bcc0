"""Give a finished run further judges: its answers stay, and are written with more rewards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stars_local.core.errors import DataError, UsageError
from stars_local.core.plain import finite
from stars_local.core.ports import RewardModel
from stars_local.core.records import Message, Prompt
from stars_local.evals.judges import is_steering, rewards_of
from stars_local.evals.records import (
    MANIFEST,
    RESULTS,
    Line,
    ResultsFile,
    by_cohort,
    claim,
    held,
    need_every_answer,
    read_lines,
    read_manifest,
    to_text,
)
from stars_local.evals.verdicts import add_verdicts, read_verdicts

_LINE = {"arm": str, "prompt_id": str, "cohort": int, "text": str, "rewards": dict}


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run with all its answers. lines: by (arm, prompt id), as a dict in the run's order."""

    folder: Path
    manifest: Mapping[str, Any]
    prompts: Mapping[str, Prompt]
    lines: Mapping[tuple[str, str], Line]

    @property
    def judges(self) -> dict[str, str]:
        """Digests of all that judged, of answers and of pairs, by name."""
        run = self.manifest["run"]
        return {**run["judges"], **run.get("judges_of_pairs", {})}

    @property
    def steerers(self) -> set[str]:
        """Digests of the models that steered its arms, as far as the manifest says."""
        run = self.manifest["run"]
        named = {digest for name, digest in run["judges"].items() if is_steering(name)}
        return named.union(run.get("steering_models", ()))


def read_run(folder: Path) -> FinishedRun:
    """A finished run. Raises DataError for a manifest or lines that are not those of one, and
    where answers are missing; UsageError for second turns, which have prompts of their own."""
    manifest, where = read_manifest(folder), folder / MANIFEST
    try:
        _check_manifest(manifest)
        prompts = _prompts(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: not the manifest of a run of this version: {error}") from error
    run = manifest["run"]
    wanted = {(arm, name) for arm in run["arms"] for name in run["prompt_ids"]}
    lines = {}
    for number, line in enumerate(read_lines(folder / RESULTS), start=1):
        if any(not isinstance(line.get(key), kind) for key, kind in _LINE.items()):
            raise DataError(f"{folder / RESULTS}:{number}: not an answer of this version")
        if (line["arm"], line["prompt_id"]) in wanted:
            lines[line["arm"], line["prompt_id"]] = line
    need_every_answer(run, lines, "the run")
    if any(line.get("turn", 1) != 1 for line in lines.values()):
        raise UsageError(f"{folder} has second turns, each arm's own: give the run of the first")
    return FinishedRun(folder, manifest, prompts, lines)


def _check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError for what a run's manifest does not have."""
    run = manifest["run"]
    names = run["prompt_ids"]
    if not all(isinstance(name, str) for name in names) or not isinstance(run["arms"], dict):
        raise ValueError("arms or prompt ids are none")
    for judges in (run["judges"], run.get("judges_of_pairs", {})):
        for name, digest in judges.items():
            if not name.split() or not isinstance(digest, str):
                raise ValueError("a judge without a name or a digest")
    if not any(is_steering(name) for name in run["judges"]):
        raise ValueError("it does not say what steered")
    if not set(names) <= set(manifest["questions"]):
        raise ValueError("it does not say what was asked")
    if not all(isinstance(each, str) for each in run.get("steering_models", ())):
        raise ValueError("a steering model without a digest")
    to_text(manifest).encode()  # ValueError for half a character, and for what is not finite


def _prompts(manifest: Mapping[str, Any]) -> dict[str, Prompt]:
    """The prompts by id, as judges were asked with."""
    prefill = manifest["run"].get("prefill", "")
    if not isinstance(prefill, str):
        raise ValueError("the prefill is no text")
    found = {}
    for name, asked in manifest["questions"].items():
        if isinstance(asked, str):
            found[name] = Prompt(name, text=asked, prefill=prefill)
            continue
        said = tuple(Message(each["role"], each["content"]) for each in asked)
        if not all(isinstance(part, str) for each in said for part in (each.role, each.content)):
            raise ValueError("it does not say what was asked")
        found[name] = Prompt(name, said, prefill=prefill)
    return found


def judged_manifest(
    manifest: Mapping[str, Any], single: Mapping[str, str], pairs: Mapping[str, str]
) -> dict[str, Any]:
    """The manifest with further judges, of answers and of pairs: digests by name."""
    run = dict(manifest["run"])
    run["judges"] = {**run["judges"], **single}
    if pairs:
        run["judges_of_pairs"] = {**run.get("judges_of_pairs", {}), **pairs}
    return {**manifest, "run": run}


def rejudge(
    run: FinishedRun, manifest: Mapping[str, Any], judges: Mapping[str, RewardModel], out: Path
) -> Iterator[Line]:
    """Write a run's lines and verdicts to `out`, with the rewards of further judges; yields each
    line when it is on disk. Stopped, it goes on with the same call.

    manifest: of `out`. Raises UsageError where `out` holds another run, or other answers.
    """
    claim(out, manifest)
    with held(out):
        add_verdicts(out, read_verdicts(run.folder))
        cohorts = {key: list(by_id) for key, by_id in by_cohort(run.lines.values()).items()}
        file = ResultsFile(out)
        done = set()
        for line in file.resume(cohorts):
            if line["text"] != run.lines[line["arm"], line["prompt_id"]]["text"]:
                raise UsageError(
                    f"{out} has other answers than {run.folder} has now: give another --out"
                )
            done.add((line["arm"], line["prompt_id"]))
            yield line
        for key, line in run.lines.items():
            if key not in done:
                more = rewards_of(judges, run.prompts[line["prompt_id"]], line["text"])
                plain = {name: finite(value) for name, value in more.items()}
                file.append(new := {**line, "rewards": {**line["rewards"], **plain}})
                yield new
