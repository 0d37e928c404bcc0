"""Reads the header of a GGUF file: its metadata and what tensors it holds, never their data.

The file may come from anywhere and be damaged anyhow. Every count and length is held against a
limit before it is used, at most `MAX_HEADER_BYTES` are read, and the time is bounded by the
number of entries that the limits let through.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from stars_local.core.errors import ModelError
from stars_local.llama.gguf_types import FILE_TYPES, TENSOR_TYPES

Scalar = bool | int | float | str

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 512 << 20  # the largest vocabularies come to about 15 MB
MAX_KEYS = 65_536
MAX_TENSORS = 262_144
MAX_ARRAY_STRINGS = 8_000_000
MAX_STRING_BYTES = 16 << 20
MAX_DIMENSIONS = 4
_MAX_TENSOR_VALUES = 1 << 48
_MAX_ALIGNMENT = 1 << 20
_CHUNK_BYTES = 4 << 20

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `offset` counts from the start of the data; `n_bytes` is 0 for a type that
    this version does not know, which is then written as its number."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself; arrays are only counted.

    n_file_bytes: the size of the file. n_needed_bytes: the size that its tensors need.
    """

    version: int
    values: Mapping[str, Scalar]
    array_lengths: Mapping[str, int]
    tensors: tuple[TensorInfo, ...]
    n_file_bytes: int
    n_needed_bytes: int

    @property
    def architecture(self) -> str:
        """For example `llama`; empty if the file names none."""
        return self._text("general.architecture")

    @property
    def name(self) -> str:
        """The model's own name, empty if it has none."""
        return self._text("general.name")

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template, None for base models."""
        template = self._text("tokenizer.chat_template")
        return template if template else None

    @property
    def n_ctx_train(self) -> int:
        """The context in tokens that the model was trained for, 0 if not given."""
        return self.integer(f"{self.architecture}.context_length")

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""
        return self.array_lengths.get("tokenizer.ggml.tokens", 0)

    @property
    def quant(self) -> str:
        """The file's quantisation as GGUF spells it, for example `Q4_K_M`.

        Without one in the metadata: the type that holds most bytes.
        """
        value = self.values.get("general.file_type")
        if type(value) is int and value in FILE_TYPES:
            return FILE_TYPES[value]
        sizes = self.bytes_by_type()
        return max(sizes, key=lambda name: sizes[name]) if sizes else ""

    def bytes_by_type(self) -> dict[str, int]:
        """How many bytes of tensors there are of each type."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.type] += tensor.n_bytes
        return dict(sizes)

    def integer(self, key: str) -> int:
        """The whole number under a key, 0 if there is none."""
        value = self.values.get(key)
        return value if type(value) is int else 0

    def _text(self, key: str) -> str:
        value = self.values.get(key)
        return value if isinstance(value, str) else ""


class _Cursor:
    """Walks over the beginning of a file, reading no more of it than is asked for."""

    def __init__(self, path: Path, file: IO[bytes], n_file_bytes: int) -> None:
        self.path = path
        self.n_file_bytes = n_file_bytes
        self._file = file
        self._buffer = bytearray(MAGIC)  # read already
        self.position = len(MAGIC)

    def fail(self, what: str) -> NoReturn:
        raise ModelError(
            f"{self.path} is damaged: {what} (at byte {self.position}): fetch the file again"
        )

    def _need(self, n_bytes: int) -> None:
        end = self.position + n_bytes
        if end <= len(self._buffer):
            return
        if end > self.n_file_bytes:
            raise ModelError(
                f"{self.path} is cut short: its header goes on past its {self.n_file_bytes} "
                "bytes: fetch the file again"
            )
        if end > MAX_HEADER_BYTES:
            self.fail(f"the header is longer than {MAX_HEADER_BYTES} bytes")
        more = self._file.read(max(_CHUNK_BYTES, end - len(self._buffer)))
        self._buffer += more
        if end > len(self._buffer):
            raise ModelError(f"{self.path} became shorter while it was read: fetch it again")

    def number(self, code: str) -> int | float | bool:
        size = struct.calcsize(f"<{code}")
        self._need(size)
        value: int | float | bool = struct.unpack_from(f"<{code}", self._buffer, self.position)[0]
        self.position += size
        return value

    def count(self, code: str, limit: int, what: str) -> int:
        value = int(self.number(code))
        if value > limit:
            self.fail(f"{value} {what}, the limit is {limit}")
        return value

    def string(self) -> str:
        n_bytes = self.count("Q", MAX_STRING_BYTES, "bytes of text")
        self._need(n_bytes)
        start, self.position = self.position, self.position + n_bytes
        return self._buffer[start : self.position].decode("utf-8", "replace")

    def skip(self, n_bytes: int) -> None:
        self._need(n_bytes)
        self.position += n_bytes

    def skip_strings(self, n_strings: int) -> None:
        for _ in range(n_strings):
            self._need(8)
            n_bytes = _U64.unpack_from(self._buffer, self.position)[0]
            if n_bytes > MAX_STRING_BYTES:
                self.fail(f"{n_bytes} bytes of text, the limit is {MAX_STRING_BYTES}")
            self._need(8 + n_bytes)
            self.position += 8 + n_bytes


def read_header(path: Path, file: IO[bytes], n_file_bytes: int) -> GgufHeader:
    """Parse the header of an open GGUF file, positioned after its four magic bytes.

    Raises ModelError for anything that does not fit the format, or the limits.
    """
    cursor = _Cursor(path, file, n_file_bytes)
    version = int(cursor.number("I"))
    if version not in VERSIONS:
        if version & 0xFFFF == 0 and version:
            raise ModelError(f"{path} is a big-endian GGUF file: fetch a little-endian one")
        raise ModelError(
            f"{path} has GGUF version {version}, and only versions 2 and 3 can be read: "
            "fetch a newer conversion of the model"
        )
    n_tensors = cursor.count("Q", MAX_TENSORS, "tensors")
    n_keys = cursor.count("Q", MAX_KEYS, "metadata keys")
    values: dict[str, Scalar] = {}
    array_lengths: dict[str, int] = {}
    for _ in range(n_keys):
        key = cursor.string()
        if key in values or key in array_lengths:
            cursor.fail(f"the key {key[:80]!r} is there twice")
        kind = int(cursor.number("I"))
        if kind == _STRING:
            values[key] = cursor.string()
        elif kind == _ARRAY:
            array_lengths[key] = _skip_array(cursor)
        elif kind in _SCALARS:
            values[key] = cursor.number(_SCALARS[kind])
        else:
            cursor.fail(f"the key {key[:80]!r} has a value of unknown type {kind}")
    tensors = tuple(_read_tensor(cursor) for _ in range(n_tensors))
    start = _aligned(cursor.position, _alignment(cursor, values))
    n_needed = max((start + tensor.offset + tensor.n_bytes for tensor in tensors), default=0)
    return GgufHeader(version, values, array_lengths, tensors, n_file_bytes, n_needed)


def _skip_array(cursor: _Cursor) -> int:
    kind = int(cursor.number("I"))
    if kind == _STRING:
        n_items = cursor.count("Q", MAX_ARRAY_STRINGS, "texts in an array")
        cursor.skip_strings(n_items)
    elif kind in _SCALARS:
        n_items = cursor.count("Q", MAX_HEADER_BYTES, "numbers in an array")
        cursor.skip(n_items * struct.calcsize(f"<{_SCALARS[kind]}"))
    else:
        cursor.fail(f"an array of unknown type {kind}")
    return n_items


def _read_tensor(cursor: _Cursor) -> TensorInfo:
    name = cursor.string()
    n_dimensions = cursor.count("I", MAX_DIMENSIONS, "dimensions of a tensor")
    shape = tuple(int(cursor.number("Q")) for _ in range(n_dimensions))
    kind = int(cursor.number("I"))
    offset = int(cursor.number("Q"))
    n_values = 1
    for size in shape:
        n_values *= size
    if n_values > _MAX_TENSOR_VALUES:
        cursor.fail(f"the tensor {name[:80]!r} has {n_values} values")
    if kind not in TENSOR_TYPES:
        return TensorInfo(name, str(kind), shape, offset, 0)
    type_name, n_block_values, n_block_bytes = TENSOR_TYPES[kind]
    if shape and shape[0] % n_block_values:
        cursor.fail(
            f"the tensor {name[:80]!r} has rows of {shape[0]} values, no multiple of "
            f"{type_name}'s {n_block_values}"
        )
    return TensorInfo(name, type_name, shape, offset, n_values // n_block_values * n_block_bytes)


def _alignment(cursor: _Cursor, values: Mapping[str, Scalar]) -> int:
    value = values.get("general.alignment", 32)
    if type(value) is not int or not 0 < value <= _MAX_ALIGNMENT or value & (value - 1):
        cursor.fail(f"an alignment of {value!r}")
    return value


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
