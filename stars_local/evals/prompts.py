"""Prompt sets from the files that people publish; the format is told from the content.

    HH-RLHF             JSON lines with `chosen` (whole dialogues); the history is kept, the last
                        assistant turn of the data is dropped
    HarmfulQA, CatQA    JSON: questions in lists nested by topic; or one flat list
    AdvBench            CSV with `goal`
    JailbreakBench      JSON list of objects with `instruction`; AlpacaEval alike
    XSTest              CSV with `prompt` and `label` (safe, unsafe)
    IMDB                CSV with `text` and `label`: the first words of a review are the prompt,
                        as raw text
    MT-bench            JSON lines with `turns`: the first is the prompt, the rest stand in
                        `PromptSet.later_turns`
    generic             JSON lines or CSV with `prompt`, `question` or `messages`, and `id`; else
                        text with a prompt a line

Files may be gzipped. A prompt's id is the given one, else a hash of its text: it does not depend
on the order of the file, nor on how many are taken.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stars_local.core.errors import DataError
from stars_local.core.records import Message, Prompt

REVIEW_WORDS = 8  # of a review, as the prompt to continue
_MAX_BYTES = 1 << 30
_TEXT_KEYS = ("prompt", "instruction", "question", "goal", "Goal", "Behavior")
_PROMPT_KEYS = {*_TEXT_KEYS, "chosen", "messages", "turns", "text"}
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
csv.field_size_limit(1 << 24)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts of one file. sha256: of the file, hex. labels: what the file says of a prompt
    beside its text (category, label), by id. later_turns: what the user says after the answer,
    by the id of the prompts that have it."""

    path: str
    sha256: str
    prompts: tuple[Prompt, ...]
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    later_turns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    """A prompt before it has its final id."""

    messages: tuple[Message, ...] = ()
    text: str | None = None
    given_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    later_turns: tuple[str, ...] = ()


def read_prompts(
    path: Path,
    *,
    limit: int | None = None,
    sample_seed: int | None = None,
    system: str | None = None,
    prefill: str = "",
    suffix: str = "",
) -> PromptSet:
    """Read a file of prompts.

    limit: how many, the first ones or, with `sample_seed`, a random sample in file order.
    prefill: what every response is forced to begin with; suffix: appended to every prompt.
    Raises DataError with the place of what cannot be read.
    """
    raw = _read(path)
    try:
        rows = [row for row in _rows(_decode(raw, path), path) if row.messages or row.text]
    except RecursionError as error:
        raise DataError(f"{path}: nested too deep: give a list of prompts") from error
    except csv.Error as error:
        raise DataError(f"{path}: not CSV: {error}") from error
    if not rows:
        raise DataError(f"{path}: no prompt found: give JSON, JSON lines, CSV or lines of text")
    named = _with_ids(rows, path)
    if limit is not None and limit < len(named):
        chosen: Sequence[int] = range(limit)
        if sample_seed is not None:
            chosen = sorted(random.Random(sample_seed).sample(range(len(named)), limit))
        named = [named[i] for i in chosen]
    prompts = tuple(_prompt(name, row, system, prefill, suffix) for name, row in named)
    labels = {name: row.labels for name, row in named if row.labels}
    later = {name: row.later_turns for name, row in named if row.later_turns}
    return PromptSet(str(path), hashlib.sha256(raw).hexdigest(), prompts, labels, later)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path}: larger than {_MAX_BYTES} bytes: cut it")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the prompts: {error.strerror}") from error


def _decode(raw: bytes, path: Path) -> str:
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = _unpack(raw, path)
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: neither UTF-8 text nor a gzip file of it: {error}") from error


def _unpack(raw: bytes, path: Path) -> bytes:
    """The content of a gzip file, which may be a thousand times larger than the file."""
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise DataError(f"{path}: larger than {_MAX_BYTES} bytes when unpacked: cut it")
    return content


def _rows(text: str, path: Path) -> Iterator[_Row]:
    start = text.lstrip()[:1]
    if start == "[" or (start == "{" and not _is_lines(text)):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON: {error}") from error
        return _from_tree(data, path, ())
    if start == "{":
        return _from_lines(text, path)
    header = next(csv.reader(io.StringIO(text)), [])
    if {"text", "label"} <= set(header) or set(header) & {*_TEXT_KEYS, "messages"}:
        reader = csv.DictReader(io.StringIO(text))
        return (_from_object(row, f"{path}:{reader.line_num}") for row in reader)
    return (_Row((Message("user", line),)) for line in text.splitlines() if line.strip())


def _is_lines(text: str) -> bool:
    """Whether the file has an object a line, and is not one tree written on one line."""
    first, _, rest = text.lstrip().partition("\n")
    try:
        found = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool(rest.strip() or _PROMPT_KEYS & set(found))


def _from_lines(text: str, path: Path) -> Iterator[_Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(found, dict):
            raise DataError(f"{path}:{number}: expected an object, found {type(found).__name__}")
        yield _from_object(found, f"{path}:{number}")


def _from_tree(data: Any, path: Path, topic: tuple[str, ...]) -> Iterator[_Row]:
    if isinstance(data, str):
        labels = {"topic": " / ".join(topic)} if topic else {}
        yield _Row((Message("user", data),), labels=labels)
    elif isinstance(data, list):
        for place, item in enumerate(data):
            if isinstance(item, dict):
                yield _from_object(item, f"{path}[{place}]")
            else:
                yield from _from_tree(item, path, topic)
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _from_tree(value, path, (*topic, key))
    else:
        raise DataError(f"{path}: expected questions, found {type(data).__name__}")


def _from_object(values: Mapping[str, Any], where: str) -> _Row:
    given = values.get("id", values.get("question_id"))
    known = {"category", "label", "type", "source", "Category"}
    labels = {key.lower(): str(values[key]) for key in known & set(values)}
    made: dict[str, Any] = {
        "given_id": None if given in (None, "") else str(given),
        "labels": labels,
    }
    if "chosen" in values:
        return _Row(parse_dialogue(str(values["chosen"]), where), **made)
    if isinstance(values.get("messages"), list):
        return _Row(_messages(values["messages"], where), **made)
    if isinstance(values.get("turns"), list) and values["turns"]:
        first, *later = map(str, values["turns"])
        return _Row((Message("user", first),), **made, later_turns=tuple(later))
    for key in _TEXT_KEYS:
        if isinstance(values.get(key), str):
            return _Row((Message("user", values[key]),), **made)
    if isinstance(values.get("text"), str):
        words = values["text"].replace("<br />", " ").split()
        return _Row(text=" ".join(words[:REVIEW_WORDS]), **made)
    raise DataError(f"{where}: no prompt: give one of {', '.join(_TEXT_KEYS[:4])}, messages, text")


def parse_dialogue(text: str, where: str) -> tuple[Message, ...]:
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
    return tuple(messages)


def _messages(items: Sequence[Any], where: str) -> tuple[Message, ...]:
    found = []
    for item in items:
        if not isinstance(item, dict) or not {"role", "content"} <= set(item):
            raise DataError(f"{where}: a message has 'role' and 'content'")
        found.append(Message(str(item["role"]), str(item["content"])))
    if not found or found[-1].role != "user":
        raise DataError(f"{where}: the last message is the user's")
    return tuple(found)


def _with_ids(rows: Sequence[_Row], path: Path) -> list[tuple[str, _Row]]:
    """Rows with unique ids; a text that comes twice is kept once."""
    named: dict[str, _Row] = {}
    for row in rows:
        content = (
            row.text if row.text is not None else repr([(m.role, m.content) for m in row.messages])
        )
        _check_unicode(row, path)
        name = row.given_id or hashlib.sha256(content.encode()).hexdigest()[:16]
        if name in named and row.given_id is not None:
            raise DataError(f"{path}: the id {name!r} stands there twice")
        named.setdefault(name, row)
    return list(named.items())


def _check_unicode(row: _Row, path: Path) -> None:
    """JSON's escapes can hold half a character, which no file and no tokenizer takes."""
    said = [each for message in row.messages for each in (message.role, message.content)]
    others = (row.text or "", row.given_id or "", *row.labels.values(), *row.later_turns)
    for text in (*said, *others):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = ascii(text[:60])
            raise DataError(f"{path}: half a character in {shown}: mend the escape") from error


def _prompt(name: str, row: _Row, system: str | None, prefill: str, suffix: str) -> Prompt:
    if row.text is not None:
        return Prompt(name, text=row.text + suffix, prefill=prefill)
    *before, last = row.messages
    messages = (*before, Message(last.role, last.content + suffix))
    if system is not None and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    return Prompt(name, messages, prefill=prefill)
