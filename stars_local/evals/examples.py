"""Some prompts with the answers of every arm, and how each came to be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stars_local.evals.records import Line
from stars_local.evals.tables import number, shown

N_EXAMPLES = 5
_EARLIER, _LAST = 160, 2000  # most characters shown of earlier messages, and of the last


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, what it asks (empty where no manifest says), and its answers."""

    prompt_id: str
    question: str
    answers: Sequence[Line]

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def examples_of(
    lines: Sequence[Line], prompts: Mapping[str, Sequence[str]], questions: Mapping[str, Any]
) -> list[Example]:
    """The first prompts of each set of prompts, those that most arms answered before others."""
    answers: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        answers[line["prompt_id"]].append(line)
    n_each = max(1, N_EXAMPLES // len(prompts))
    chosen = [
        name
        for ids in prompts.values()
        for name in sorted((i for i in ids if i in answers), key=lambda i: -len(answers[i]))[
            :n_each
        ]
    ]
    return [Example(name, question_text(questions.get(name, "")), answers[name]) for name in chosen]


def question_text(asked: str | Sequence[Mapping[str, str]]) -> str:
    """What a prompt asks, for people: its text, or its messages, the earlier ones shortened."""
    if isinstance(asked, str):
        return _cut(asked, _LAST)
    *earlier, last = asked
    if not earlier:
        return _cut(last["content"], _LAST)
    said = [f"{each['role']}: {_cut(each['content'], _EARLIER)}" for each in earlier]
    return "\n".join([*said, f"{last['role']}: {_cut(last['content'], _LAST)}"])


def rewards_text(line: Line) -> str:
    """The rewards of an answer, those that are optimised marked."""
    return ", ".join(f"{shown(name)} {number(value, 2)}" for name, value in line["rewards"].items())


def attempt_text(attempt: Mapping[str, Any]) -> str:
    """Which attempt it is, and what became of it by the steering reward."""
    place = f"segment {attempt['segment'] + 1}, attempt {attempt['index'] + 1}"
    reward, threshold = attempt["reward"], attempt["threshold"]
    scored = "" if reward is None else f", steering reward {number(reward, 2)}"
    against = "" if threshold is None else f" against {number(threshold, 2)}"
    return f"{place} {attempt['outcome']}{scored}{against}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} …"
