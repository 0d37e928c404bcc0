"""What happens in a conversation, one record a line of its file.

    {"type": "segment", "segment": {...}, "token_ids": [...], "n_backtrack": 0, "attempts": [...]}

A conversation is the fold of its records (`chat.conversation`), so that a file that ends
anywhere still says everything up to there. Reading is strict: a field that is missing, unknown
or of another type is refused. Numbers are finite or null.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stars_local.core.errors import DataError
from stars_local.core.records import Attempt, Finish, Segment
from stars_local.core.strict_json import is_unicode

SCHEMA = 1
_END_OF_COUNTS = 1 << 63


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a file: its schema, the conversation's name, and when it began (ISO)."""

    schema: int
    id: str
    started: str


@dataclass(frozen=True, slots=True)
class Held:
    """From here on the conversation is held with this model file (hex SHA-256)."""

    model: str
    sha256: str
    reward_model: str | None


@dataclass(frozen=True, slots=True)
class SystemSet:
    """The system message changed; None is the template's own."""

    text: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A person asked something. The answer's seeds come from `seed` and `draw`, the number of
    questions asked before, those taken back included: asking again draws something else."""

    text: str
    seed: int
    draw: int


@dataclass(frozen=True, slots=True)
class SegmentKept:
    """A segment of the answer under way was kept, after these attempts at it."""

    segment: Segment
    token_ids: tuple[int, ...]
    n_backtrack: int
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer under way ended. `token_ids`: its tokens without those that a stop string took
    away, None where that is not known. `attempts`: those after the last kept segment."""

    method: str
    finish_reason: Finish
    n_prompt_tokens: int
    n_reused_tokens: int
    n_kept_tokens: int
    n_rejected_tokens: int
    n_spare_tokens: int
    elapsed_s: float
    token_ids: tuple[int, ...] | None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Undone:
    """The last question and its answer were taken back."""


@dataclass(frozen=True, slots=True)
class Emptied:
    """All turns were taken back; the system message stays."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The context was full: this many of the oldest turns left it for good."""

    n_turns: int


Record = Held | SystemSet | Asked | SegmentKept | Answered | Undone | Emptied | Trimmed

_TYPES: dict[str, type[Any]] = {
    "session": Header,
    "model": Held,
    "system": SystemSet,
    "question": Asked,
    "segment": SegmentKept,
    "answer": Answered,
    "undo": Undone,
    "reset": Emptied,
    "trim": Trimmed,
}
_NAMES = {cls: name for name, cls in _TYPES.items()}


def to_line(record: Record | Header) -> bytes:
    """A record as a line of JSON, its newline included."""
    found = {"type": _NAMES[type(record)], **_plain(dataclasses.asdict(record))}
    return json.dumps(found, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"


def from_line(line: bytes, where: str) -> Record | Header:
    """The record of a line. Raises DataError, naming `where`, for anything else."""
    try:
        found = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a line of JSON: the file is damaged") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected an object, found {type(found).__name__}")
    name = found.pop("type", None)
    if not isinstance(name, str) or name not in _TYPES:
        raise DataError(f"{where}: no record is of type {str(name)[:40]!r}: no session file?")
    record: Record | Header = _read_dataclass(_TYPES[name], found, where)
    if isinstance(record, Header) and record.schema != SCHEMA:
        raise DataError(
            f"{where}: schema {record.schema}, this version reads {SCHEMA}: use the version "
            "that wrote it"
        )
    return record


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _plain(value: Any) -> Any:
    """Values as JSON has them; an infinite number becomes null."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# -- reading -------------------------------------------------------------------------------


def _read_dataclass(cls: type[Any], found: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    unknown = sorted(found.keys() - hints.keys())
    missing = sorted(hints.keys() - found.keys())
    if unknown or missing:
        wrong = f"unknown {unknown[0][:40]!r}" if unknown else f"no {missing[0]!r}"
        raise DataError(f"{where}: {wrong} in a {cls.__name__} record: the file is damaged")
    values = {key: _read(hint, found[key], f"{where}: {key}") for key, hint in hints.items()}
    return cls(**values)


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        if value is None and type(None) in inner:
            return None
        return _read(next(each for each in inner if each is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(inner[0], each, where) for each in value)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return {key: _read(inner[1], each, where) for key, each in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _read_dataclass(typing.cast("type[Any]", hint), value, where)
    if isinstance(hint, type) and origin is None:
        return _read_simple(hint, value, where)
    raise DataError(f"{where}: {str(value)[:40]!r} is of the wrong kind: the file is damaged")


def _read_simple(kind: type[Any], value: Any, where: str) -> Any:
    if not _fits(kind, value):
        raise DataError(f"{where}: {str(value)[:40]!r} is of the wrong kind: the file is damaged")
    return kind(value)


def _fits(kind: type[Any], value: Any) -> bool:
    """Whether JSON's value is one of this kind; counts and tokens are never negative, and never
    more than 63 bits: they become native integers."""
    if kind is int:
        return type(value) is int and 0 <= value < _END_OF_COUNTS
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if kind is str:
        return type(value) is str and is_unicode(value)
    if kind is bool:
        return type(value) is bool
    return issubclass(kind, StrEnum) and value in [str(each) for each in kind]
