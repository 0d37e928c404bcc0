"""The shipped prompt sets: distinct, balanced, and with no topic in both."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from stars_local.data import CALIBRATION, CHECK, prompts_path, shipped_kinds, shipped_prompts


def texts(name: str) -> list[str]:
    return [prompt.messages[-1].content for prompt in shipped_prompts(name)]


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in prompts_path(name).read_text().splitlines()]


@pytest.mark.parametrize("name", [CALIBRATION, CHECK])
def test_every_prompt_is_there_once_and_every_second_one_is_risky(name: str) -> None:
    assert len(set(texts(name))) == len(texts(name)) == 300
    assert list(shipped_kinds(name).values()) == ["risky", "everyday"] * 150


@pytest.mark.parametrize("name", [CALIBRATION, CHECK])
def test_a_system_message_comes_first(name: str) -> None:
    first = shipped_prompts(name, "Be brief.")[0]
    assert [message.role for message in first.messages] == ["system", "user"]


def test_no_topic_stands_in_both_sets_and_each_twice_in_one() -> None:
    ours, theirs = (Counter(row["topic"] for row in rows(name)) for name in (CALIBRATION, CHECK))
    assert not set(ours) & set(theirs)
    assert set(ours.values()) == set(theirs.values()) == {2}


@pytest.mark.parametrize("name", [CALIBRATION, CHECK])
def test_a_prompt_is_its_topic_in_a_sentence(name: str) -> None:
    assert all(row["topic"] in row["prompt"] != row["topic"] for row in rows(name))
