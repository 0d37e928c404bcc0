"""The second turn is asked after each arm's own answer to the first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stars_local.core.errors import UsageError
from stars_local.core.records import Message, Prompt
from stars_local.evals.prompts import read_prompts
from stars_local.evals.runner import Plan, Shard, run
from stars_local.evals.turns import check_turns, second_turn
from tests.support.toy_runs import plan, timeless

LATER = {f"p{i}": (f"then {i}",) for i in range(7)}


def conversations() -> Plan:
    prompts = tuple(Prompt(f"p{i}", (Message("user", f"prompt {i}"),)) for i in range(7))
    return replace(plan(), prompts=prompts)


def test_the_history_is_the_arms_own(tmp_path: Path) -> None:
    first = conversations()
    lines = list(run(first, tmp_path))
    second = second_turn(first, LATER, lines)
    for arm in second.arms:
        for prompt in second.prompts:
            asked = arm.ask(prompt)
            (answer,) = [
                line["text"]
                for line in lines
                if (line["arm"], line["prompt_id"]) == (arm.name, prompt.id)
            ]
            assert [m.role for m in asked.messages] == ["user", "assistant", "user"]
            assert asked.messages[1].content == answer
            assert asked.messages[2].content == LATER[prompt.id][0]
            assert arm.make_task(asked).context.seeds.turn == 1


def test_a_shard_asks_on_with_its_own_answers(tmp_path: Path) -> None:
    first = conversations()
    whole = list(run(first, tmp_path / "whole"))
    list(run(second_turn(first, LATER, whole), tmp_path / "whole" / "turn-2"))
    found = []
    for i in (1, 2):
        folder = tmp_path / f"{i}"
        lines = list(run(first, folder, Shard(i, 2)))
        list(run(second_turn(first, LATER, lines), folder / "turn-2", Shard(i, 2)))
        found += timeless(folder / "turn-2")
    assert sorted(found) == timeless(tmp_path / "whole" / "turn-2")
    assert all(json.loads(line)["turn"] == 2 for line in found)


def test_every_prompt_needs_a_second_turn() -> None:
    prompts = conversations().prompts
    check_turns(prompts, LATER)
    with pytest.raises(UsageError, match="'p6' has no second turn"):
        check_turns(prompts, {name: LATER[name] for name in list(LATER)[:-1]})


def test_turns_are_read_and_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "mt.jsonl"
    path.write_text('{"id": "a", "turns": ["x", "y"]}\n{"id": "b", "turns": ["z"]}\n')
    found = read_prompts(path)
    assert [prompt.messages[-1].content for prompt in found.prompts] == ["x", "z"]
    assert found.later_turns == {"a": ("y",)}
