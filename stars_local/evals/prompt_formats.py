"""The shapes of prompt files, each read into rows; see `stars_local.evals.prompts` for them.

What a file is called decides where it says so (.txt, .csv, .json, .jsonl, with or without .gz),
else its first character and its header do.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stars_local.core.errors import DataError
from stars_local.core.records import Message
from stars_local.core.strict_json import parse_json

REVIEW_WORDS = 8  # of a review, as the prompt to continue
_TEXT_KEYS = ("prompt", "instruction", "question", "goal", "Goal", "Behavior")
_COLUMNS = (*_TEXT_KEYS, "messages", "text")
_PROMPT_KEYS = {*_COLUMNS, "chosen", "turns"}
_LABELS = ("category", "label", "type", "source", "Category")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
csv.field_size_limit(1 << 24)


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt before it has its final id: messages, or a text to continue."""

    messages: tuple[Message, ...] = ()
    text: str | None = None
    given_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    later_turns: tuple[str, ...] = ()


def read_rows(text: str, path: Path) -> Iterator[Row]:
    """The rows of a file with this content. Raises DataError, and RecursionError and csv.Error
    for what is nested too deep or is no CSV."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "txt":
        return _from_text(text)
    start = text.lstrip()[:1]
    if kind != "csv" and (kind in ("json", "jsonl") or start in ("[", "{")):
        if _is_lines(text):
            return _from_lines(text, path)
        return _from_tree(_tree(text, path), str(path))
    header = next(csv.reader(io.StringIO(text)), [])
    if set(header) & set(_COLUMNS):
        reader = csv.DictReader(io.StringIO(text))
        return (_from_object(row, f"{path}:{reader.line_num}") for row in reader)
    if kind == "csv" and text.strip():
        shown = ", ".join(header)[:200]
        raise DataError(
            f"{path}: no column of prompts among {shown!r}: name one of them "
            f"{', '.join(_COLUMNS)}, or the file .txt if each line is a prompt"
        )
    return _from_text(text)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. A line ends at a newline and nowhere else:
    other separators of Unicode may stand inside JSON strings and prompts."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _from_text(text: str) -> Iterator[Row]:
    return (Row((Message("user", line),)) for _, line in _lines(text))


def _is_lines(text: str) -> bool:
    """Whether the file has an object a line, and is not one tree written on one line."""
    first, _, rest = text.lstrip().partition("\n")
    try:
        found = parse_json(first)
    except ValueError:
        return False
    return isinstance(found, dict) and bool(rest.strip() or _PROMPT_KEYS & set(found))


def _from_lines(text: str, path: Path) -> Iterator[Row]:
    for number, line in _lines(text):
        try:
            found = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(found, dict):
            raise DataError(f"{path}:{number}: expected an object, found {type(found).__name__}")
        yield _from_object(found, f"{path}:{number}")


def _tree(text: str, path: Path) -> Any:
    if not text.strip():
        return []
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(
            f"{path}: not JSON: {error}: mend it, or name the file .txt if each line is a prompt"
        ) from error


def _from_tree(data: Any, where: str, topic: tuple[str, ...] = ()) -> Iterator[Row]:
    if isinstance(data, str):
        labels = {"topic": " / ".join(topic)} if topic else {}
        yield Row((_asked(data, where),), labels=labels)
    elif isinstance(data, list):
        for place, item in enumerate(data):
            if isinstance(item, dict):
                yield _from_object(item, f"{where}[{place}]")
            else:
                yield from _from_tree(item, f"{where}[{place}]", topic)
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _from_tree(value, f"{where}: {key}", (*topic, key))
    else:
        raise DataError(f"{where}: expected questions, found {type(data).__name__}")


def _from_object(values: Mapping[str, Any], where: str) -> Row:
    given = values.get("id", values.get("question_id"))
    made: dict[str, Any] = {
        "given_id": None if given in (None, "") else str(given),
        "labels": {key.lower(): str(values[key]) for key in _LABELS if key in values},
    }
    if "chosen" in values:
        return Row(_dialogue(str(values["chosen"]), where), **made)
    if isinstance(values.get("messages"), list | str):
        return Row(_messages(values["messages"], where), **made)
    if isinstance(values.get("turns"), list) and values["turns"]:
        first, *later = map(str, values["turns"])
        return Row((_asked(first, where),), **made, later_turns=tuple(later))
    for key in _TEXT_KEYS:
        if isinstance(values.get(key), str):
            return Row((_asked(values[key], where),), **made)
    if isinstance(values.get("text"), str):
        asked = _asked(values["text"], where)
        if "label" not in values:
            return Row((asked,), **made)
        made["labels"]["sentiment"] = made["labels"].pop("label")  # the review's
        words = asked.content.replace("<br />", " ").split()
        return Row(text=" ".join(words[:REVIEW_WORDS]), **made)
    raise DataError(f"{where}: no prompt: give one of {', '.join(_TEXT_KEYS[:4])}, messages, text")


def _asked(text: str, where: str) -> Message:
    """The user's turn; DataError for an empty one."""
    if not text.strip():
        raise DataError(f"{where}: the prompt is empty: fill it in, or leave the entry out")
    return Message("user", text)


def _dialogue(text: str, where: str) -> tuple[Message, ...]:
    """The turns of an HH-RLHF dialogue up to its last human one."""
    messages: list[Message] = []
    for part in ("\n" + text.strip()).split("\n\n" if text.startswith("\n\n") else "\n"):
        speaker, colon, content = part.strip().partition(":")
        if colon and speaker in _SPEAKERS:
            messages.append(Message(_SPEAKERS[speaker], content.strip()))
        elif messages and part.strip():
            last = messages[-1]
            messages[-1] = Message(last.role, f"{last.content}\n\n{part.strip()}")
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages:
        raise DataError(f"{where}: no 'Human:' turn in the dialogue")
    return (*messages[:-1], _asked(messages[-1].content, where))


def _messages(given: str | Sequence[Any], where: str) -> tuple[Message, ...]:
    """A conversation; a cell of a table has it as JSON."""
    items: Any = given
    if isinstance(given, str):
        try:
            items = parse_json(given)
        except ValueError as error:
            raise DataError(f"{where}: messages are not JSON: {error}") from error
        if not isinstance(items, list):
            raise DataError(f"{where}: messages are a list, found {type(items).__name__}")
    found = []
    for item in items:
        if not isinstance(item, dict) or not {"role", "content"} <= set(item):
            raise DataError(f"{where}: a message has 'role' and 'content'")
        found.append(Message(str(item["role"]), str(item["content"])))
    if not found or found[-1].role != "user":
        raise DataError(f"{where}: the last message is the user's")
    return (*found[:-1], _asked(found[-1].content, where))
