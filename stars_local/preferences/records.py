"""Rows of a JSON, JSON lines, CSV or ``label text`` file, packed or not, told by content."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stars_local.core.errors import DataError
from stars_local.core.strict_json import is_unicode, parse_json

_GZIP_MAGIC = b"\x1f\x8b"
# The csv module refuses fields over 128 KiB; reviews and dialogues may be longer.
_MAX_FIELD_CHARS = 16 * 1024 * 1024
_MAX_BYTES = 1 << 30  # a few packed megabytes can swell to more than the memory holds


@dataclass(frozen=True)
class Record:
    """One row: its fields, and the 1-based line (or list position) where it starts."""

    values: Mapping[str, Any]
    line: int


def read_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a file; DataError names the file and the line of a bad one."""
    text = read_text(path)
    start = text.lstrip()[:2]
    if start.startswith("["):
        yield from _json_list(path, text)
    elif start.startswith("{"):
        yield from _json_lines(path, text)
    elif start in {"0 ", "1 "}:
        yield from _label_lines(path, text)
    else:
        yield from _csv_rows(path, text)


def read_text(path: Path) -> str:
    """The whole file as text, unpacked if it is gzip; DataError if it is not UTF-8 or larger,
    unpacked, than 1 GiB."""
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise DataError(f"{path} holds more than {_MAX_BYTES} bytes: split it")
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _json_list(path: Path, text: str) -> Iterator[Record]:
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}: not a JSON list: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield Record(_object(path, number, row), number)


def _json_lines(path: Path, text: str) -> Iterator[Record]:
    # Not splitlines(): texts may hold U+2028 and its like unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON: {error}") from error
        yield Record(_object(path, number, row), number)


def _object(path: Path, number: int, row: object) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
    broken = next((k for k, v in row.items() if isinstance(v, str) and not is_unicode(v)), None)
    if broken is not None:
        raise DataError(f"{path}:{number}: {broken!r} holds half a character (a lone surrogate)")
    return row


def _label_lines(path: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        label, _, sentence = line.strip().partition(" ")
        if label not in {"0", "1"} or not sentence:
            raise DataError(f"{path}:{number}: expected '0 text' or '1 text'")
        yield Record({"label": label, "text": sentence}, number)


def _csv_rows(path: Path, text: str) -> Iterator[Record]:
    csv.field_size_limit(_MAX_FIELD_CHARS)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    line = 2
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}:{line}: not as many fields as the header names")
            yield Record(row, line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not CSV: {error}") from error
