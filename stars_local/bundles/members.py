"""The members of a bundle's tar, read header by header, with no more trust than each needs.

A tar of any sort may hold links, devices, holes, headers about headers and sizes beyond all
memory. A bundle's is plain: 512 bytes of header, the bytes, zeros up to the next multiple of 512,
and zeros at the end. A name of more than 100 bytes comes before as a member of type `L` (GNU).
Anything else is refused before its bytes are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stars_local.core.errors import DataError

_BLOCK_BYTES = 512
_MAX_NAME_BYTES = 512
_MAX_END_BYTES = 1 << 20  # zeros behind the last member: writers fill up whole records
_MAX_SIZE_BYTES = 1 << 50
_PLAIN_TYPES, _LONG_NAME = (b"0", b"\0"), b"L"
_OCTAL = re.compile(rb" *([0-7]{1,12})[ \0]*")


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file in a tar: its name, its number of bytes, and where they begin."""

    name: str
    size_bytes: int
    begins_at: int


def members(file: IO[bytes], path: Path) -> Iterator[Member]:
    """The members in their order, whatever the caller does with the file's position.

    Raises DataError, with `path` in it, for whatever no bundle holds, and for one cut short.
    """
    end = file.seek(0, 2)
    at, name = 0, None
    while any(block := _block(file, path, at)):
        size, kind = _checked(block, path), block[156:157]
        body = at + _BLOCK_BYTES
        at = body + -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
        if at > end:
            raise DataError(f"{path}: cut short within a member: fetch it again")
        if kind == _LONG_NAME and name is None and size <= _MAX_NAME_BYTES:
            file.seek(body)
            name = file.read(size)
            continue
        shown = _text(block[:100] if name is None else name)
        if kind not in _PLAIN_TYPES:
            raise DataError(
                f"{path}: the member {ascii(shown)[:80]} is no plain file (tar type {kind!r}), as "
                "all are in a bundle: do not use this bundle"
            )
        yield Member(shown, size, body)
        name = None
    file.seek(at)
    rest = file.read(_MAX_END_BYTES + 1)
    if name is not None or rest.strip(b"\0") or len(rest) > _MAX_END_BYTES:
        raise DataError(f"{path}: more follows behind its end: do not use this bundle")


def _block(file: IO[bytes], path: Path, at: int) -> bytes:
    file.seek(at)
    block = file.read(_BLOCK_BYTES)
    if len(block) < _BLOCK_BYTES:
        raise DataError(f"{path}: not a bundle, or cut short: its end is missing")
    return block


def _checked(header: bytes, path: Path) -> int:
    """The size in a header whose sum is right and whose unused fields are empty."""
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _number(header[148:156]) != total:
        raise DataError(f"{path}: not a bundle: not a header of a tar, or a damaged one")
    size = _number(header[124:136])
    if size is None or size > _MAX_SIZE_BYTES:
        raise DataError(f"{path}: not a bundle: a member's size is none")
    if any(header[345:]):  # the rest of a name in other kinds of tar, or maps of holes
        raise DataError(f"{path}: not a bundle: a header of another kind of tar")
    return size


def _number(field: bytes) -> int | None:
    """Octal digits, or from 8 GiB on a set bit and the number itself; None for anything else."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    return None if match is None else int(match[1], 8)


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("utf-8", "surrogateescape")
