"""JSON objects as dataclasses, strictly: every field, no other field, and of the right type."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from stars_local.core.errors import RewardError


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint in brackets at the nearest of some names, empty where none is near."""
    close = difflib.get_close_matches(name, [str(each) for each in names], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def read_object(kind: Any, raw: object, where: str, at: str) -> object:
    """An instance of the dataclass `kind`; `at` is its place in the file, empty for the whole.

    RewardError begins with `where` and names the first field that is wrong.
    """
    here = at or "the manifest"
    if not isinstance(raw, dict):
        raise RewardError(f"{where}: {here} must be an object, found {type(raw).__name__}")
    hints = typing.get_type_hints(kind)
    prefix = f"{at}." if at else ""
    missing = [name for name in hints if name not in raw]
    unknown = [name for name in raw if name not in hints]
    if unknown:
        hint = nearest(unknown[0], missing or hints)
        raise RewardError(f"{where}: unknown field {prefix + unknown[0]!r}{hint}")
    if missing:
        raise RewardError(f"{where}: the field {prefix + missing[0]!r} is missing")
    return kind(**{name: _value(hint, raw[name], where, prefix + name)
                   for name, hint in hints.items()})  # fmt: skip


def _value(hint: Any, raw: object, where: str, at: str) -> object:
    """One value of a field, checked against the field's type."""
    if isinstance(hint, types.UnionType):  # X | None is the only union there is
        return None if raw is None else _value(typing.get_args(hint)[0], raw, where, at)
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(raw, list):
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, item, where, f"{at}[{i}]") for i, item in enumerate(raw))
    if origin is dict and isinstance(raw, dict):
        inner = typing.get_args(hint)[1]
        return {key: _value(inner, item, where, f"{at}.{key}") for key, item in raw.items()}
    if dataclasses.is_dataclass(hint):
        return read_object(hint, raw, where, at)
    if origin is None and issubclass(hint, StrEnum):
        if isinstance(raw, str) and raw in set(hint):
            return hint(raw)
        wanted = ", ".join(hint)
        close = nearest(raw, hint) if isinstance(raw, str) else ""
        raise RewardError(f"{where}: {at} is {raw!r}{close}, must be one of {wanted}")
    right = type(raw) is hint or (hint is float and type(raw) is int)
    if not right or (isinstance(raw, float) and not math.isfinite(raw)):
        name = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}
        wanted = name.get(hint, "a list" if origin is tuple else "an object")
        raise RewardError(f"{where}: {at} is {json.dumps(raw)[:60]}, must be {wanted}")
    return float(raw) if hint is float else raw  # type: ignore[arg-type]
