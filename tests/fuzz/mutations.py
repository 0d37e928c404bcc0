"""Strategies that spoil good files: bytes, JSON trees and lines of text."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

DEEP = "[" * 20_000 + "]" * 20_000
# Written into JSON as they stand: numbers, texts and trees that readers stumble over.
LITERALS = (
    "null", "true", "0", "-1", "1", "0.5", "1e308", "1e999", "-1e999", "NaN", "Infinity",
    "9223372036854775808", "4294967295", "1" + "0" * 400, "1" * 5000, '""', '"x"', '"1"',
    '"../../outside"', '"/etc/passwd"', '"a/b"', '"\\u0000"', '"\\ud800"', '"\\u001b[2J"',
    '"a\\nb"', '"' + "y" * 3000 + '"', "[]", "{}", "[[]]", '[{"a": 1}]', '{"": ""}',
    '{"\\n\\ud800": 1}', DEEP, '[1, "a", null]',
)  # fmt: skip
_MARK = "@@literal-{}@@"


def _places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += _places(value, (*at, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            found += _places(value, (*at, index))
    return found


def every_odd_value(good: dict[str, Any]) -> Iterator[bytes]:
    """The object with each literal in the place of each value at any depth."""
    for place in _places(good):
        for literal in LITERALS if place else ():
            tree = copy.deepcopy(good)
            node: Any = tree
            for step in place[:-1]:
                node = node[step]
            node[place[-1]] = "@@"
            yield json.dumps(tree).replace('"@@"', literal).encode()


@st.composite
def spoilt_json(draw: st.DrawFn, good: Any) -> bytes:
    """A JSON tree with one to three places overwritten, left out, added or doubled."""
    tree = {"whole": copy.deepcopy(good)}
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in _places(tree) if place]
        *above, last = draw(st.sampled_from(places))
        node: Any = tree
        for step in above:
            node = node[step]
        what = draw(st.sampled_from(("replace", "replace", "replace", "drop", "add", "double")))
        literal = _MARK.format(draw(st.integers(0, len(LITERALS) - 1)))
        if what == "replace" or node is tree:
            node[last] = literal
        elif what == "drop":
            del node[last]
        elif isinstance(node, dict):
            node[draw(st.sampled_from(("new", "id", "\x1b[31m", "a\nb", "\ud800")))] = literal
        elif what == "double":
            node.append(node[last])
        else:
            node.insert(last, literal)
    text = json.dumps(tree["whole"])
    for index, literal in enumerate(LITERALS):
        text = text.replace(f'"{_MARK.format(index)}"', literal)
    return text.encode()


@st.composite
def spoilt_bytes(draw: st.DrawFn, good: bytes, first: int = 0, end: int | None = None) -> bytes:
    """Bytes with one to four spots flipped, cut out, doubled, overwritten or cut off.

    Spots lie in [first, end); by default anywhere.
    """
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        last = len(data) if end is None else min(end, len(data))
        if last <= first:
            break
        at = draw(st.integers(first, last - 1))
        n = draw(st.sampled_from((1, 1, 1, 2, 4, 8, 64)))
        what = draw(st.sampled_from(("flip", "flip", "set", "cut", "double", "end", "noise")))
        if what == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "set":
            value = draw(st.sampled_from((0, 0x7F, 0x80, 0xFF)))
            data[at : at + n] = bytes([value]) * len(data[at : at + n])
        elif what == "cut":
            del data[at : at + n]
        elif what == "double":
            data[at:at] = data[at : at + n]
        elif what == "noise":
            data[at:at] = draw(st.binary(max_size=n))
        else:
            del data[at:]
    return bytes(data)


def json_or_bytes(good: Any) -> st.SearchStrategy[bytes]:
    """A spoilt tree, or a tree written well and then spoilt as bytes, or any bytes at all."""
    return st.one_of(
        spoilt_json(good),
        spoilt_json(good),
        spoilt_bytes(json.dumps(good).encode()),
        st.binary(max_size=200),
    )
