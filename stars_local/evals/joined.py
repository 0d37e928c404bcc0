"""The answers of several runs as if they were of one, where that is true.

What only looks alike is told apart by the run's name: arms of one name in two runs, judges of one
name that are different models, and prompts of one id that are asked from different files, with
another prefill or suffix, or in another turn.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stars_local.core.errors import DataError, UsageError
from stars_local.core.progress import OnProgress, silent
from stars_local.core.strict_json import parse_json
from stars_local.evals.records import RESULTS, SUMMARY, Line, by_cohort, read_lines, read_manifest
from stars_local.evals.verdicts import Verdict, read_verdicts

_JUDGES = ("judges", "judges_of_pairs")


@dataclass(slots=True)
class Joined:
    """Runs read together. Arms and prompts stand in the order of the manifests.

    manifests: by the run's name. params: by arm, as recorded. prompts: the ids of each set of
    prompts; ids of one set mean the same in all runs. n_answers: of each run. margin: the widest
    margin of ties that a run was summed up with.
    """

    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    params: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    labels: dict[str, Mapping[str, str]] = field(default_factory=dict)
    questions: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, list[str]] = field(default_factory=dict)
    n_answers: dict[str, int] = field(default_factory=dict)
    margin: float = 0.0


def join(runs: Sequence[Path], advance: OnProgress = silent) -> Joined:
    """Read runs; a last line that is being written, or was cut by a kill, is left out.

    So are the answers of cohorts under way: short ones end first, and a comparison by what has
    ended favours whoever was asked last.

    Raises DataError for what cannot be read and where there are no answers, UsageError for a run
    given twice.
    """
    found = Joined(manifests=dict(zip(run_names(runs), map(read_manifest, runs), strict=True)))
    described = {name: manifest["run"] for name, manifest in found.manifests.items()}
    arms = Counter(arm for run in described.values() for arm in run["arms"])
    sets = _prompt_sets(described)
    unlike = _unlike_judges(described)
    for done, (folder, (name, run)) in enumerate(zip(runs, described.items(), strict=True), 1):
        renamed = _Names(name, sets[name], {arm for arm in arms if arms[arm] > 1}, unlike)
        ids = [renamed.prompt(id) for id in run["prompt_ids"]]
        mine = found.prompts.setdefault(sets[name], [])
        mine += [id for id in ids if id not in set(mine)]
        found.params |= {renamed.arm(arm): params for arm, params in run["arms"].items()}
        found.labels |= {renamed.prompt(id): each for id, each in run.get("labels", {}).items()}
        questions = found.manifests[name].get("questions", {})
        found.questions |= {renamed.prompt(id): each for id, each in questions.items()}
        read = read_lines(folder / RESULTS, forgive_last=True)
        lines = [renamed.line(line) for line in _of_whole_cohorts(read, run)]
        found.n_answers[name] = len(lines)
        found.lines += lines
        found.verdicts += map(renamed.verdict, read_verdicts(folder))
        found.margin = max(found.margin, _margin(folder))
        advance("reading runs", done, len(runs))
    if not found.lines:
        raise DataError(f"{runs[0]}: no cohort is finished yet: let 'stars-local eval' go on")
    prompts = {id: k for k, id in enumerate(itertools.chain(*found.prompts.values()))}
    arm_places = {arm: k for k, arm in enumerate(found.params)}
    for line in found.lines:
        if line["arm"] not in arm_places or line["prompt_id"] not in prompts:
            raise DataError(
                f"{', '.join(map(str, runs))}: the manifest knows no answer of {line['arm']} to "
                f"{line['prompt_id']}: the results are of another run"
            )
    found.lines.sort(key=lambda line: (arm_places[line["arm"]], prompts[line["prompt_id"]]))
    return found


def _of_whole_cohorts(lines: Iterable[Line], run: Mapping[str, Any]) -> list[Line]:
    """The answers of those cohorts of an arm of which no answer is missing."""
    width, ids = run["width"], run["prompt_ids"]
    return [
        line
        for (_, k), by_id in by_cohort(lines).items()
        if set(ids[k * width : (k + 1) * width]) <= set(by_id)
        for line in by_id.values()
    ]


def run_names(runs: Sequence[Path]) -> list[str]:
    """The shortest end of each folder's path that is no other's."""
    whole = [run.resolve() for run in runs]
    names = []
    for run, path in zip(runs, whole, strict=True):
        others = [other.parts for other in whole if other != path]
        if len(others) != len(whole) - 1:
            raise UsageError(f"{run} is given twice: leave one out")
        n_parts = 1
        while any(other[-n_parts:] == path.parts[-n_parts:] for other in others):
            n_parts += 1
        names.append(str(Path(*path.parts[-n_parts:])))
    return names


@dataclass(frozen=True, slots=True)
class _Names:
    """What things of one run are called among all. prompt_set: "" where all runs ask the same."""

    run: str
    prompt_set: str
    shared_arms: set[str]
    unlike_judges: set[str]

    def arm(self, arm: str) -> str:
        return f"{arm} ({self.run})" if arm in self.shared_arms else arm

    def prompt(self, id: str) -> str:
        return f"{self.prompt_set}: {id}" if self.prompt_set else id

    def judge(self, judge: str) -> str:
        return f"{judge} ({self.run})" if judge in self.unlike_judges else judge

    def line(self, line: Line) -> Line:
        return {
            **line,
            "arm": self.arm(line["arm"]),
            "prompt_id": self.prompt(line["prompt_id"]),
            "rewards": {self.judge(judge): value for judge, value in line["rewards"].items()},
        }

    def verdict(self, verdict: Verdict) -> Verdict:
        return dataclasses.replace(
            verdict,
            judge=self.judge(verdict.judge),
            prompt_id=self.prompt(verdict.prompt_id),
            first=self.arm(verdict.first),
            second=self.arm(verdict.second),
        )


def _prompt_sets(described: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Runs by what they ask: each has the name of the first that asks the same, or all have ""."""
    first: dict[tuple[Any, ...], str] = {}
    for name, run in described.items():
        first.setdefault(_asked(run), name)
    return {name: first[_asked(run)] if len(first) > 1 else "" for name, run in described.items()}


def _asked(run: Mapping[str, Any]) -> tuple[Any, ...]:
    turns = {params.get("turn", 1) for params in run["arms"].values()}
    return (*(run.get(key) for key in ("prompts", "prefill", "suffix")), *sorted(turns))


def _unlike_judges(described: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Judges' names that stand for different models in different runs."""
    digests: dict[str, set[str]] = defaultdict(set)
    for run in described.values():
        for judge, digest in (each for key in _JUDGES for each in run.get(key, {}).items()):
            digests[judge].add(digest)
    return {judge for judge, found in digests.items() if len(found) > 1}


def _margin(run: Path) -> float:
    """The margin of ties that the run was summed up with; 0 before it was."""
    path = run / SUMMARY
    if not path.exists():
        return 0.0
    try:
        pairs = parse_json(path.read_text(encoding="utf-8"))["pairs"]
        return max((float(pair["margin"]) for pair in pairs), default=0.0)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: cannot read the summary of a run: {error}") from error
