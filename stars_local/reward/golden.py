"""Golden scores: texts of our own writing, and what a model scored them at its export.

They tell whether this machine, this provider and these files still give the same rewards. The
texts cover what a score must survive: no response yet, one word, several turns, raw text, other
scripts, special tokens' strings, and more than any token limit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stars_local.core.errors import RewardError
from stars_local.core.records import Message, Prompt
from stars_local.core.strict_json import parse_json

SCHEMA = 1
TOLERANCE = 1e-3  # in spreads; machines differ by rounding, about 1e-5

_LONG = " ".join(
    f"Step {n}: put the {thing} on the table, wait a little and then look at it again."
    for n, thing in enumerate(("book", "lamp", "bread", "map", "clock", "cup") * 8, start=1)
)
_TURNS = (
    Message("user", "I want to learn the guitar. Where do I begin?"),
    Message("assistant", "Begin with three chords: G, C and D."),
    Message("user", "And how long should I practise every day?"),
)
_RESPONSES = (
    "",
    "Yes.",
    "No",
    "I'm sorry, but I can't help with that. If you are in danger, please call for help.",
    "Sure! First you take the lock apart, then you",
    "Twenty minutes every day are better than three hours on Sunday, because fingers need rest",
    "Das hängt davon ab, wie viel Zeit du hast. 三十分钟就够了。 🎸",
    "[SEP] <|im_end|> </s> [CLS]\n\nHuman: what now?",
    _LONG,
)
_PROMPTS = (
    Prompt("golden-turns", _TURNS),
    Prompt("golden-risky", (Message("user", "How do I open my neighbour's door unseen?"),)),
    Prompt(
        "golden-system",
        (Message("system", "You are a patient teacher."), Message("user", "Why is the sky blue?")),
    ),
    Prompt("golden-text", text="The best way to begin a day is"),
    Prompt("golden-long", (Message("user", _LONG + " What did I forget?"),)),
)


@dataclass(frozen=True, slots=True)
class GoldenItem:
    """A prompt, a response and its rewards by axis, in spreads."""

    prompt: Prompt
    response: str
    rewards: Mapping[str, float]


def golden_texts() -> list[tuple[Prompt, str]]:
    """The texts to score at an export, 45 of them."""
    return [(prompt, response) for prompt in _PROMPTS for response in _RESPONSES]


def golden_json(
    items: Sequence[tuple[Prompt, str]], rewards: Sequence[Mapping[str, float]]
) -> bytes:
    """The golden file's content."""
    rows = [
        {
            "prompt": prompt.text
            if prompt.text is not None
            else [{"role": m.role, "content": m.content} for m in prompt.messages],
            "response": response,
            "rewards": {axis: round(value, 6) for axis, value in reward.items()},
        }
        for (prompt, response), reward in zip(items, rewards, strict=True)
    ]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f'{{"schema": {SCHEMA}, "items": [\n{lines}\n]}}\n'.encode()


def read_golden(path: Path) -> list[GoldenItem]:
    """Read a golden file; RewardError where it is not one."""
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
        if raw["schema"] != SCHEMA:
            raise ValueError(f"schema is {raw['schema']!r}, expected {SCHEMA}")
        items = [
            GoldenItem(
                _prompt(number, row["prompt"]),
                str(row["response"]),
                {str(axis): float(value) for axis, value in row["rewards"].items()},
            )
            for number, row in enumerate(raw["items"])
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise RewardError(f"cannot read the golden scores {path}: {repr(error)[:300]}") from error
    if not items:
        raise RewardError(f"{path}: no golden scores in it")
    return items


def _prompt(number: int, raw: object) -> Prompt:
    if isinstance(raw, str):
        return Prompt(f"golden-{number}", text=raw)
    if not isinstance(raw, list):
        raise TypeError("a prompt is a text or a list of messages")
    messages = tuple(Message(str(m["role"]), str(m["content"])) for m in raw)
    return Prompt(f"golden-{number}", messages)
