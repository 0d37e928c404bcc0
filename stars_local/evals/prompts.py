"""Prompt sets from the files that people publish.

    HH-RLHF             JSON lines with `chosen` (whole dialogues); the history is kept, the last
                        assistant turn of the data is dropped
    HarmfulQA, CatQA    JSON: questions in lists nested by topic; or one flat list
    AdvBench            CSV with `goal`
    JailbreakBench      JSON list of objects with `instruction`; AlpacaEval alike
    XSTest              CSV with `prompt` and `label` (safe, unsafe)
    IMDB                CSV or JSON lines with `text` and `label`: the first words of a review are
                        the prompt, as raw text
    MT-bench            JSON lines with `turns`: the first is the prompt, the rest stand in
                        `PromptSet.later_turns`
    generic             JSON lines or CSV with `prompt`, `question`, `messages` (in CSV as JSON) or
                        `text` without a `label`, and `id`; else text with a prompt a line

The format is told from the content, but a .txt file is a prompt a line whatever it begins with,
and a .csv, .json or .jsonl file that is not what its name says is an error. Files may be gzipped.
A line ends at a newline and nowhere else. An empty prompt is an error, an empty line of text is
none. A prompt's id is the given one, else a hash of its text: it does not depend on the order of
the file, nor on how many are taken.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stars_local.core.errors import DataError, UsageError
from stars_local.core.records import Message, Prompt
from stars_local.evals.prompt_formats import Row, read_rows

_MAX_BYTES = 1 << 30


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
    Raises DataError with the place of what cannot be read, UsageError for a sample of no size.
    """
    if sample_seed is not None and limit is None:
        raise UsageError("--sample-seed draws some of the prompts: give --limit with it")
    raw = _read(path)
    try:
        rows = list(read_rows(_decode(raw, path), path))
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


def _with_ids(rows: Sequence[Row], path: Path) -> list[tuple[str, Row]]:
    """Rows with unique ids; a text that comes twice is kept once."""
    named: dict[str, Row] = {}
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


def _check_unicode(row: Row, path: Path) -> None:
    """JSON's escapes can hold half a character, which no file and no tokenizer takes."""
    said = [each for message in row.messages for each in (message.role, message.content)]
    others = (row.text or "", row.given_id or "", *row.labels.values(), *row.later_turns)
    for text in (*said, *others):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = ascii(text[:60])
            raise DataError(f"{path}: half a character in {shown}: mend the escape") from error


def _prompt(name: str, row: Row, system: str | None, prefill: str, suffix: str) -> Prompt:
    if row.text is not None:
        return Prompt(name, text=row.text + suffix, prefill=prefill)
    *before, last = row.messages
    messages = (*before, Message(last.role, last.content + suffix))
    if system is not None and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    return Prompt(name, messages, prefill=prefill)
