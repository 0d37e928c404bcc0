"""Which other files an ONNX file reads its weights from: no file may be read that is not hashed.

The file is a protocol buffer, in which every field has a number and a kind, so the few fields on
the way to a tensor are followed and all others skipped; the numbers are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from stars_local.core.errors import RewardError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FIELDS = 5_000_000  # a second or two; a decoder of 30 layers has some 30,000
_MAX_VARINT_BYTES = 10
# by message: the fields that lead on, and to which message
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {1: "key", 2: "value"},
}


class _Damaged(Exception):
    """Not a protocol buffer."""


def external_files(path: Path) -> set[str]:
    """The names of files, as they stand there, that tensors of an ONNX file are read from.

    Raises RewardError where the file cannot be read, or is no ONNX file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return set(_locations(data))
    except (OSError, ValueError, _Damaged) as error:  # ValueError: an empty file
        raise RewardError(f"cannot read {path}: {error}: export it again") from error


def _locations(data: mmap.mmap) -> Iterator[str]:
    """The values of the entries of external data whose key is "location"."""
    waiting = [("model", 0, len(data))]
    n_fields = 0
    while waiting:
        message, at, end = waiting.pop()
        leads = _FIELDS[message]
        key, value = b"", b""
        while at < end:
            n_fields += 1
            if n_fields > _MAX_FIELDS:
                raise _Damaged(f"it has more than {_MAX_FIELDS} fields")
            number, kind, at, after = _field(data, at, end)
            if kind == _BYTES and number in leads:
                if message != "entry":
                    waiting.append((leads[number], at, after))
                elif number == 1:
                    key = data[at:after]
                else:
                    value = data[at:after]
            at = after
        if message == "entry" and key == b"location":
            yield value.decode("utf-8", "replace")


def _field(data: mmap.mmap, at: int, end: int) -> tuple[int, int, int, int]:
    """Number and kind of the field at a place, and where its content begins and ends."""
    tag, at = _varint(data, at, end)
    number, kind = tag >> 3, tag & 7
    if kind == _VARINT:
        _, after = _varint(data, at, end)
    elif kind == _BYTES:
        n_bytes, at = _varint(data, at, end)
        after = at + n_bytes
    elif kind in (_FIXED64, _FIXED32):
        after = at + (8 if kind == _FIXED64 else 4)
    else:
        raise _Damaged(f"no ONNX file has a field of kind {kind}")
    if after > end or number == 0:
        raise _Damaged("it is cut short, or no ONNX file")
    return number, kind, at, after


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        if at >= end:
            raise _Damaged("it is cut short, or no ONNX file")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at
    raise _Damaged("a number in it has no end")
