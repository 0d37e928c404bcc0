"""Pairs out of rows that carry a label each: responses to a prompt, or texts without one."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stars_local.core.errors import DataError
from stars_local.preferences.records import Record, read_records
from stars_local.preferences.text_format import Message

_PROMPT_COLUMNS = ("question", "prompt")
_TEXT_COLUMNS = ("text", "response", "Response")
_PROMPT_LISTS = ("question_list.csv.gz", "question_list.csv")


@dataclass(frozen=True)
class Labelled:
    """A text with its label; rows of one `group` answer the same prompt (None: there is none)."""

    prompt: tuple[Message, ...]
    group: str | None
    text: str
    label: str
    line: int


def read_labelled(path: Path, records: Iterable[Record], prompts: Path | None) -> list[Labelled]:
    """The rows of a labelled file; DataError names the line of a bad one.

    A prompt that is a bare number is an index into a list of prompts: `prompts`, or the
    ``question_list.csv`` (or ``.csv.gz``) beside the file, as GPTFuzz publishes it. Where
    neither is there the number only says which rows belong together and the prompt is empty.
    """
    table: Mapping[str, str] | None = None
    if prompts is not None:
        table = _read_prompts(prompts)
    rows = []
    for record in records:
        if table is None and _is_index(record):
            table = _prompts_beside(path)
        rows.append(_labelled(path, record, table))
    return rows


def paired(
    path: Path, rows: Sequence[Labelled], better_label: str | None, seed: int
) -> Iterator[tuple[Labelled, Labelled]]:
    """(better, worse) pairs within each group: every row of the larger side stands in one.

    Unless `better_label` says otherwise, "0" is better among responses, "1" among texts.
    """
    if not rows:
        return
    default = "1" if rows[0].group is None else "0"
    better = default if better_label is None else better_label
    labels = sorted({row.label for row in rows})
    if better not in labels:
        raise DataError(f"{path}: no row has the better label {better!r}, only {labels}")
    groups: dict[str | None, list[Labelled]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    generator = random.Random(seed)
    for group in groups.values():
        good = [row for row in group if row.label == better]
        bad = [row for row in group if row.label != better]
        if good and bad:
            good, bad = (generator.sample(side, len(side)) for side in (good, bad))
            for i in range(max(len(good), len(bad))):
                yield good[i % len(good)], bad[i % len(bad)]


def _labelled(path: Path, record: Record, table: Mapping[str, str] | None) -> Labelled:
    values = record.values
    text = next((values[key] for key in _TEXT_COLUMNS if key in values), None)
    if not isinstance(text, str) or "label" not in values:
        raise DataError(f"{path}:{record.line}: needs a text (or response) and a label")
    label = str(values["label"])
    key = next((key for key in _PROMPT_COLUMNS if key in values), None)
    if key is None:
        return Labelled((), None, text, label, record.line)
    asked = str(values[key])
    if table is None:
        prompt: tuple[Message, ...] = () if _is_index(record) else (("user", asked),)
        return Labelled(prompt, asked, text, label, record.line)
    if asked not in table:
        raise DataError(f"{path}:{record.line}: no prompt {asked!r} in the prompt list")
    return Labelled((("user", table[asked]),), asked, text, label, record.line)


def _is_index(record: Record) -> bool:
    asked = next((record.values[key] for key in _PROMPT_COLUMNS if key in record.values), None)
    return str(asked).isdecimal()


def _prompts_beside(path: Path) -> dict[str, str] | None:
    for name in _PROMPT_LISTS:
        if (path.parent / name).is_file():
            return _read_prompts(path.parent / name)
    return None


def _read_prompts(path: Path) -> dict[str, str]:
    table = {}
    for record in read_records(path):
        if not {"index", "text"} <= set(record.values):
            raise DataError(f"{path}:{record.line}: a prompt list needs the columns index, text")
        table[str(record.values["index"])] = str(record.values["text"])
    return table
