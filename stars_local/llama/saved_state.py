"""The bytes of a saved KV state: for one model file and one build, and refused for any other.

    magic | length of the header (4 bytes, big endian) | header (JSON) | native state

The native state is only meaningful to the code that wrote it, and reading a damaged one is not
safe everywhere, so the header carries its digest.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from stars_local.core.errors import ModelError
from stars_local.core.strict_json import parse_json

_MAGIC = b"stars-local kv 1\n"
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Origin:
    """What a state belongs to: model file (hex SHA-256), adapters with their scales, build."""

    sha256: str
    adapters: str
    build: str


def pack(origin: Origin, token_ids: list[int], state: bytes) -> bytes:
    """A saved state as bytes."""
    header = json.dumps(
        {
            "origin": asdict(origin),
            "token_ids": token_ids,
            "digest": hashlib.blake2b(state).hexdigest(),
        }
    ).encode()
    return _MAGIC + len(header).to_bytes(_LENGTH_BYTES, "big") + header + state


def unpack(data: bytes, origin: Origin) -> tuple[list[int], bytes]:
    """Token ids and native state. Raises ModelError unless they are whole and from `origin`."""
    header, state = _split(data)
    saved, token_ids = header.get("origin"), header.get("token_ids")
    if not isinstance(saved, dict) or not isinstance(token_ids, list):
        raise ModelError("the saved state has no origin or no tokens: save it again")
    for name, mine in asdict(origin).items():
        if saved.get(name) != mine:
            raise ModelError(
                f"the saved state has {name} {saved.get(name)!r}, this model has {mine!r}: "
                "load it with what it was saved with, or go on without it"
            )
    if hashlib.blake2b(state).hexdigest() != header.get("digest"):
        raise ModelError("the saved state is damaged (its digest does not match): save it again")
    if not token_ids or not all(type(token) is int for token in token_ids):
        raise ModelError("the saved state has no tokens: save it again")
    return token_ids, state


def _split(data: bytes) -> tuple[dict[str, object], bytes]:
    start = len(_MAGIC) + _LENGTH_BYTES
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
        raise ModelError("this is no saved state: it does not begin as one")
    end = start + int.from_bytes(data[len(_MAGIC) : start], "big")
    try:
        header = parse_json(data[start:end])
    except ValueError:
        raise ModelError("the saved state is damaged (its header is unreadable)") from None
    if not isinstance(header, dict):
        raise ModelError("the saved state is damaged (its header is unreadable)")
    return header, data[end:]
