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

from stars_local.core.errors import StarsError

_KINDS = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}
_MAX_SHOWN = 60


def parse_json(text: str | bytes, *, unique: bool = False) -> Any:
    """The value of a JSON text; ValueError for whatever is wrong with it, depth included.

    unique: refuse names that an object has twice, of which readers take one or the other.
    """
    try:
        return json.loads(text, object_pairs_hook=_of_unique_names if unique else None)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _of_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {json.dumps(twice)[:_MAX_SHOWN]} is there twice")
    return found


def is_unicode(text: str) -> bool:
    """Whether text has no lone surrogates, which JSON's escapes can smuggle in."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint in brackets at the nearest of some names, empty where none is near."""
    close = difflib.get_close_matches(name[:_MAX_SHOWN], [str(each) for each in names], 1, 0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def read_object(kind: Any, raw: object, where: str, at: str, error: type[StarsError]) -> object:
    """An instance of the dataclass `kind`; `at` is its place in the file, empty for the whole.

    The `error` that is raised begins with `where` and names the first field that is wrong.
    """
    here = at or "the file"
    if not isinstance(raw, dict):
        raise error(f"{where}: {here} must be an object, found {type(raw).__name__}")
    hints = typing.get_type_hints(kind)
    prefix = f"{at}." if at else ""
    missing = [name for name in hints if name not in raw]
    unknown = [name for name in raw if name not in hints]
    if unknown:
        hint = nearest(unknown[0], missing or hints)
        raise error(f"{where}: unknown field {(prefix + unknown[0])[:_MAX_SHOWN]!r}{hint}")
    if missing:
        raise error(f"{where}: the field {prefix + missing[0]!r} is missing")
    return kind(**{name: _value(hint, raw[name], where, prefix + name, error)
                   for name, hint in hints.items()})  # fmt: skip


def _value(hint: Any, raw: object, where: str, at: str, error: type[StarsError]) -> object:
    """One value of a field, checked against the field's type."""
    if isinstance(hint, types.UnionType):  # X | None is the only union there is
        return None if raw is None else _value(typing.get_args(hint)[0], raw, where, at, error)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(raw, list):
        if Ellipsis not in inner and len(raw) != len(inner):
            raise error(f"{where}: {at} has {len(raw)} values, must have {len(inner)}")
        items = enumerate(raw)
        return tuple(_value(inner[0], item, where, f"{at}[{i}]", error) for i, item in items)
    if origin is dict and isinstance(raw, dict):
        return {
            str(_value(str, key, where, f"a name in {at}", error)): _value(
                inner[1], item, where, f"{at}[{key[:_MAX_SHOWN]!r}]", error
            )
            for key, item in raw.items()
        }
    if dataclasses.is_dataclass(hint):
        return read_object(hint, raw, where, at, error)
    if origin is None and issubclass(hint, StrEnum):
        if isinstance(raw, str) and raw in set(hint):
            return hint(raw)
        close = nearest(raw, hint) if isinstance(raw, str) else ""
        raise error(f"{where}: {at} is {_shown(raw)}{close}, must be one of {', '.join(hint)}")
    number = _number(raw) if hint is float else raw
    if type(number) is not hint or (isinstance(number, str) and not is_unicode(number)):
        wanted = _KINDS.get(hint, "a list" if origin is tuple else "an object")
        raise error(f"{where}: {at} is {_shown(raw)}, must be {wanted}")
    return number


def _number(raw: object) -> float | None:
    """A finite number as a float, None for anything else."""
    if type(raw) not in (int, float):
        return None
    try:
        value = float(typing.cast("int | float", raw))
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _shown(raw: object) -> str:
    """A value in an error: short, and never walked through if it is a tree."""
    if raw is None or isinstance(raw, str | int | float):
        return json.dumps(raw)[:_MAX_SHOWN]
    return "a list" if isinstance(raw, list) else "an object"
