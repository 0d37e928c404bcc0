"""Preference pairs out of the files that people publish them in.

`read_pairs` looks at what stands in a file, not at its name, and yields `Pair` records:

| format | looks like | becomes |
|---|---|---|
| HH-RLHF | JSON lines of `chosen`, `rejected`: whole dialogues | the common start is the prompt |
| generic | JSON lines, a JSON list or CSV of `prompt`, `chosen`, `rejected` | itself |
| a teacher's | the same with `margin`, log-odds that `chosen` is better | itself |
| PKU-SafeRLHF | `prompt`, `response_0`, `response_1`, `better_response_id` | by that id |
| PKU-SafeRLHF, DPO | `prompt`, `response: [better, worse]` | itself |
| labelled responses | CSV of `question` or `prompt`, `response`, `label` | paired within a prompt |
| labelled texts | CSV of `text`, `label`, or lines `label text` | paired at random, no prompt |

A ``.gz`` is unpacked on the way. Labels: in labelled responses 1 marks the bad one (as in
GPTFuzz, where it means harmful), in labelled texts the good one (positive); `better_label`
says otherwise. Pairing at random uses a generator of its own, seeded by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from stars_local.core.errors import DataError
from stars_local.preferences.labelled import paired, read_labelled
from stars_local.preferences.records import Record, read_records
from stars_local.preferences.text_format import Message

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_ROLES = {"Human": "user", "Assistant": "assistant"}
_ROLE_NAMES = ("user", "assistant", "system")


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, the better one first; `line` is 1-based in `source`.

    margin: log-odds that the first is better, where a model said so; None: people did.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    axis: str
    source: str
    line: int
    margin: float | None = None


def read_pairs(
    path: Path,
    axis: str,
    *,
    source: str | None = None,
    prompts: Path | None = None,
    better_label: str | None = None,
    where: tuple[str, str] | None = None,
    seed: int = 0,
    is_excluded: Callable[[str], bool] = lambda text: False,
) -> Iterator[Pair]:
    """Yield the pairs of a preference file, in its order.

    `prompts` is a CSV of `index`, `text` for a file whose prompts are indices into it; see
    `labelled` for what happens without one.
    `where` keeps only the records whose column has that value. `seed` chooses the partners
    of labelled records, of which those that `is_excluded` holds for are left out before
    pairing (a pair would take its clean partner with it). DataError names the file and line
    of the first bad record.
    """
    name = path.name if source is None else source
    records = read_records(path)
    if where is not None:
        records = _keep(records, path, *where)
    first = next(records, None)
    if first is None:
        raise DataError(f"{path}: no records in it")
    everything = chain([first], records)
    keys = set(first.values)
    if {"chosen", "rejected"} <= keys:
        convert = _generic if "prompt" in keys else _hh
    elif {"prompt", "response_0", "response_1", "better_response_id"} <= keys:
        convert = _pku
    elif {"prompt", "response"} <= keys and isinstance(first.values["response"], list):
        convert = _pku_dpo
    elif "label" in keys and keys & {"text", "response", "Response"}:
        rows = read_labelled(path, everything, prompts)
        rows = [row for row in rows if not is_excluded(row.text)]
        for good, bad in paired(path, rows, better_label, seed):
            yield Pair(good.prompt, good.text, bad.text, axis, name, good.line)
        return
    else:
        raise DataError(
            f"{path}: unknown preference format with fields {', '.join(sorted(keys))}; "
            "expected prompt/chosen/rejected, HH-RLHF, PKU-SafeRLHF or labelled rows"
        )
    for record in everything:
        try:
            prompt, chosen, rejected = convert(record.values)
            margin = _margin(record.values.get("margin")) if convert is _generic else None
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}:{record.line}: {_reason(error)}") from error
        yield Pair(prompt, chosen, rejected, axis, name, record.line, margin)


def _reason(error: Exception) -> str:
    return f"no field {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


def _keep(records: Iterator[Record], path: Path, column: str, value: str) -> Iterator[Record]:
    for record in records:
        if column not in record.values:
            raise DataError(f"{path}:{record.line}: no field {column!r} to choose rows by")
        if str(record.values[column]) == value:
            yield record


Converted = tuple[tuple[Message, ...], str, str]


def _hh(values: Mapping[str, Any]) -> Converted:
    chosen, rejected = _text(values["chosen"]), _text(values["rejected"])
    limit = next(
        (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
        min(len(chosen), len(rejected)),
    )
    border = chosen.rfind(_ASSISTANT, 0, limit)
    if border < 0:
        raise ValueError("the two dialogues share no 'Assistant:' turn to answer in")
    start = border + len(_ASSISTANT)
    return parse_dialogue(chosen[:border]), chosen[start:].strip(), rejected[start:].strip()


def parse_dialogue(text: str) -> tuple[Message, ...]:
    """The messages of an HH-RLHF dialogue; ValueError where it does not start with a turn."""
    if not text.startswith((_HUMAN, _ASSISTANT)):
        raise ValueError("a dialogue must start with a 'Human:' or 'Assistant:' turn")
    messages: list[Message] = []
    rest = text
    while rest:
        label = "Human" if rest.startswith(_HUMAN) else "Assistant"
        body = rest[len(label) + 3 :]
        ends = [i for i in (body.find(_HUMAN), body.find(_ASSISTANT)) if i >= 0]
        end = min(ends, default=len(body))
        messages.append((_ROLES[label], body[:end].strip()))
        rest = body[end:]
    return tuple(messages)


def _generic(values: Mapping[str, Any]) -> Converted:
    return (
        _messages(values["prompt"]),
        _last_content(values["chosen"]),
        _last_content(values["rejected"]),
    )


def _margin(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError(f"'margin' must be a number, found {type(value).__name__}")
    margin = float(value)
    if not math.isfinite(margin):
        raise ValueError(f"'margin' must be a finite number, found {value}")
    return margin


def _pku(values: Mapping[str, Any]) -> Converted:
    better = str(values["better_response_id"])
    if better not in {"0", "1"}:
        raise ValueError(f"better_response_id is {better!r}, expected 0 or 1")
    worse = "1" if better == "0" else "0"
    return (
        _messages(values["prompt"]),
        _text(values[f"response_{better}"]),
        _text(values[f"response_{worse}"]),
    )


def _pku_dpo(values: Mapping[str, Any]) -> Converted:
    responses = values["response"]
    if not isinstance(responses, list) or len(responses) != 2:
        raise ValueError("'response' must be a list of two texts, the better one first")
    return _messages(values["prompt"]), _text(responses[0]), _text(responses[1])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {type(value).__name__}")
    return value


def _messages(value: object) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (("user", value),)
    if not isinstance(value, list):
        raise TypeError("'prompt' must be a text or a list of messages")
    messages = []
    for item in value:
        if not isinstance(item, dict) or item.get("role") not in _ROLE_NAMES:
            raise ValueError(f"a message needs a role of {', '.join(_ROLE_NAMES)} and a content")
        messages.append((str(item["role"]), _text(item.get("content"))))
    return tuple(messages)


def _last_content(value: object) -> str:
    """A response is a text, or a conversation whose last message is the response."""
    if isinstance(value, list):
        messages = _messages(value)
        if not messages:
            raise ValueError("an empty list of messages is no response")
        return messages[-1][1]
    return _text(value)
