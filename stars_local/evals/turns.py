"""The second turn of a conversation, asked after each arm's own answer to the first.

It is a second run, over the same prompts in the same cohorts, whose history is read from the
lines of the first: a cohort stays the unit of resuming and of sharding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from stars_local.core.driver import Task
from stars_local.core.errors import UsageError
from stars_local.core.records import Message, Prompt
from stars_local.evals.records import Line
from stars_local.evals.runner import Arm, Plan

SECOND = "turn-2"  # the folder of the second run, in that of the first


def check_turns(prompts: Sequence[Prompt], later_turns: Mapping[str, Sequence[str]]) -> None:
    """Raise UsageError unless every prompt has a second turn."""
    without = next((prompt.id for prompt in prompts if prompt.id not in later_turns), None)
    if without is not None:
        raise UsageError(f"--turns 2: the prompt {without!r} has no second turn: leave --turns out")


def second_prompts(
    prompts: Sequence[Prompt], later_turns: Mapping[str, Sequence[str]]
) -> tuple[Prompt, ...]:
    """What will be asked at the second turn, with nothing but the prefill for the answers."""
    return tuple(_go_on(each, each.prefill, later_turns) for each in prompts)


def _go_on(prompt: Prompt, answer: str, later_turns: Mapping[str, Sequence[str]]) -> Prompt:
    said = Message("assistant", answer), Message("user", later_turns[prompt.id][0])
    return replace(prompt, messages=(*prompt.messages, *said))


def second_turn(
    plan: Plan, later_turns: Mapping[str, Sequence[str]], lines: Sequence[Line]
) -> Plan:
    """The plan of the second turns. lines: the answers to the first, those of a shard suffice.

    Seeds are those of turn 1 (turns count from 0 there), so that no draw repeats the first
    turn's. The forced beginning of the first answer is part of its text.
    """
    answers = {(line["arm"], line["prompt_id"]): str(line["text"]) for line in lines}

    def ask(arm: str, prompt: Prompt) -> Prompt:
        return _go_on(prompt, answers[arm, prompt.id], later_turns)

    arms = [
        replace(
            arm,
            make_task=partial(_second_task, arm),
            ask=partial(ask, arm.name),
            params={**arm.params, "turn": 2},
            turn=2,
        )
        for arm in plan.arms
    ]
    return replace(plan, arms=tuple(arms))


def _second_task(arm: Arm, prompt: Prompt) -> Task:
    task = arm.make_task(prompt)
    context = replace(task.context, seeds=replace(task.context.seeds, turn=1))
    return replace(task, context=context)
