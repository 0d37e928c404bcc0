"""Run arms over prompts, cohort by cohort, so that a run can be killed and taken up again.

A cohort is `width` prompts that follow each other in the prompt set; every arm draws it in
lockstep from a cleared context, so that its answers depend on nothing but itself. It is the
unit of resuming (unfinished, it runs again whole) and of sharding (cohort k belongs to shard
k mod n). Arms of one language model draw all their cohorts before those of the next, so that
only one need be open. Models come in by the ports; this module opens none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stars_local.core.driver import Driver, Task
from stars_local.core.errors import UsageError
from stars_local.core.events import Finished, Judged
from stars_local.core.ports import RewardModel
from stars_local.core.records import Attempt, Prompt
from stars_local.evals.judges import rewards_of
from stars_local.evals.records import SCHEMA, Line, ResultsFile, answer_line, claim, held


def _as_it_is(prompt: Prompt) -> Prompt:
    return prompt


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer. name: unique in a run. make_task: an answer to draw for a prompt.
    open_driver: called before each cohort; gives a driver over a cleared context with a slot
    for every prompt of a cohort. params: what the manifest records. group: arms of equal ones
    share a language model, and run together. ask: what is asked for a prompt of the plan. turn:
    of the conversation, from 1; lines carry it."""

    name: str
    make_task: Callable[[Prompt], Task]
    open_driver: Callable[[int], Driver]
    params: Mapping[str, Any] = field(default_factory=dict)
    group: Hashable = None
    ask: Callable[[Prompt], Prompt] = _as_it_is
    turn: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run. width: prompts of a cohort. judges: score finished texts, by name; they
    are asked one text at a time. about: further facts that must be the same on resuming
    (hashes, versions); machine: facts that may differ."""

    arms: tuple[Arm, ...]
    prompts: tuple[Prompt, ...]
    judges: Mapping[str, RewardModel]
    width: int
    about: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"the arm {twice!r} is given twice: leave one out, or name them apart")
        if self.width < 1:
            raise UsageError(f"the width of a cohort is {self.width}: give at least 1")

    def cohorts(self) -> list[tuple[Prompt, ...]]:
        """The prompts, cut into cohorts."""
        starts = range(0, len(self.prompts), self.width)
        return [self.prompts[start : start + self.width] for start in starts]

    def manifest(self) -> dict[str, Any]:
        """What `claim` writes and compares."""
        run = {
            "prompt_ids": [prompt.id for prompt in self.prompts],
            "width": self.width,
            "arms": {arm.name: dict(arm.params) for arm in self.arms},
            "judges": {name: model.info.sha256 for name, model in self.judges.items()},
            **self.about,
        }
        questions = {prompt.id: question(prompt) for prompt in self.prompts}
        machine = dict(self.machine)
        return {"schema": SCHEMA, "run": run, "machine": machine, "questions": questions}


def question(prompt: Prompt) -> str | list[dict[str, str]]:
    """What a prompt asks, for people to read: its text, or its messages."""
    if prompt.text is not None:
        return prompt.text
    return [{"role": each.role, "content": each.content} for each in prompt.messages]


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` (from 1) of `count` processes that share a run."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(f"shard {self.index}/{self.count}: give I/N with 1 <= I <= N")

    def has(self, cohort: int) -> bool:
        """Whether a cohort is this shard's."""
        return cohort % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """Read `i/n`."""
    first, slash, second = text.partition("/")
    if not slash or not (first.isdecimal() and second.isdecimal()):
        raise UsageError(f"shard {text!r}: give I/N, for example 1/4")
    return Shard(int(first), int(second))


def run(plan: Plan, folder: Path, shard: Shard | None = None) -> Generator[Line, None, None]:
    """Draw every answer that is missing; yields each line when it is on disk.

    Lines of an earlier start come first, those of other shards in this folder too. Raises
    UsageError if the folder holds another run, or another process is at work in it.
    """
    part = Shard() if shard is None else shard
    claim(folder, plan.manifest())
    with held(folder):
        file = ResultsFile(folder)
        cohorts = list(enumerate(plan.cohorts()))
        whole = {(arm.name, k): [p.id for p in group] for arm in plan.arms for k, group in cohorts}
        kept = file.resume(whole)
        yield from kept
        done = {(line["arm"], line["cohort"]) for line in kept}
        for arm, k in _order(plan.arms, [k for k, _ in cohorts if part.has(k)]):
            if (arm.name, k) in done:
                continue
            with closing(_cohort(arm, k, cohorts[k][1], plan.judges)) as lines:
                for line in lines:
                    file.append(line)
                    yield line


def _order(arms: Sequence[Arm], cohorts: Sequence[int]) -> Iterator[tuple[Arm, int]]:
    """Group by group, in it cohort by cohort, in that arm by arm."""
    for group in dict.fromkeys(arm.group for arm in arms):
        together = [arm for arm in arms if arm.group == group]
        yield from ((arm, k) for k in cohorts for arm in together)


def _cohort(
    arm: Arm, index: int, prompts: Sequence[Prompt], judges: Mapping[str, RewardModel]
) -> Generator[Line, None, None]:
    driver = arm.open_driver(len(prompts))
    prompts = [arm.ask(prompt) for prompt in prompts]
    attempts: list[dict[tuple[int, int], Attempt]] = [{} for _ in prompts]
    away_s = 0.0  # judging and writing an answer is no part of the time that the others took
    with closing(driver.run(arm.make_task(prompt) for prompt in prompts)) as events:
        for place, event in events:
            since = time.monotonic()
            if isinstance(event, Judged):
                # an attempt that is forced in the end is reported a second time: the last counts
                attempts[place][event.attempt.segment, event.attempt.index] = event.attempt
            elif isinstance(event, Finished):
                rewards = rewards_of(judges, prompts[place], event.result.text)
                fates = [attempts[place][key] for key in sorted(attempts[place])]
                result = replace(event.result, elapsed_s=max(0.0, event.result.elapsed_s - away_s))
                line = answer_line(arm.name, index, result, rewards, fates)
                yield {**line, "turn": arm.turn}
            away_s += time.monotonic() - since


def preference_pairs(lines: Sequence[Line], prompts: Mapping[str, Prompt]) -> Iterator[Line]:
    """Kept against rejected segments of the same prefix, as preference data.

    Each kept segment is paired with the rejected attempt of the lowest reward; segments whose
    kept attempt is not the higher one are skipped.
    """
    for line in lines:
        prompt, prefix = prompts[line["prompt_id"]], ""
        by_segment: dict[int, list[Line]] = {}
        for attempt in line["attempts"]:
            by_segment.setdefault(attempt["segment"], []).append(attempt)
        for segment in sorted(by_segment):
            scored = [a for a in by_segment[segment] if a["reward"] is not None]
            kept = [a for a in by_segment[segment] if a["outcome"] in ("accepted", "forced")]
            lost = [a for a in scored if a["outcome"] == "rejected"]
            if kept and lost and kept[0]["reward"] is not None:
                worst = min(lost, key=lambda a: float(a["reward"]))
                if kept[0]["reward"] > worst["reward"]:
                    yield {
                        "prompt": [{"role": m.role, "content": m.content} for m in prompt.messages]
                        or prompt.text,
                        "prefix": prompt.prefill + prefix,
                        "chosen": kept[0]["text"],
                        "rejected": worst["text"],
                        "chosen_reward": kept[0]["reward"],
                        "rejected_reward": worst["reward"],
                    }
            prefix += kept[0]["text"] if kept else ""
