"""Decides whether a grammar may be handed to llama.cpp, and turns JSON schemas into grammars.

llama.cpp's parser takes an empty grammar for none and dies of deep ones, so a grammar is
measured first (`grammar_shape`) and then parsed in a helper process.
"""

from __future__ import annotations

import json
from contextlib import closing
from functools import lru_cache
from typing import Any

from stars_local.core.errors import GrammarError
from stars_local.llama.child import MIB, Child, ChildDied, ChildRefused
from stars_local.llama.grammar_shape import check_shape

MAX_GRAMMAR_BYTES = 256 << 10
MAX_SCHEMA_BYTES = 256 << 10
MAX_SCHEMA_DEPTH = 64
_LIMIT_S = 20.0  # most of it for starting the helper process on a busy machine
_MEMORY_BYTES = 1024 * MIB


@lru_cache(maxsize=64)
def check_grammar(gbnf: str) -> None:
    """Raise GrammarError unless llama.cpp can safely use this GBNF grammar.

    Refused are grammars that are empty, larger than `MAX_GRAMMAR_BYTES`, nested too deep,
    left-recursive, without a rule `root`, or that llama.cpp cannot parse; its reason is passed
    on. Grammars that name tokens of a vocabulary are not supported. A grammar that passed
    costs nothing the second time.
    """
    with closing(Child()) as child:
        check_grammar_with(child, gbnf)


def check_grammar_with(child: Child, gbnf: str) -> None:
    """`check_grammar` in a given helper process, and without memory of earlier grammars."""
    if not gbnf.strip():
        raise GrammarError("the grammar is empty: give GBNF with a rule `root`")
    _check_text("grammar", gbnf, MAX_GRAMMAR_BYTES)
    check_shape(gbnf)
    _ask(child, "grammar", {"gbnf": gbnf}, "grammar")


def schema_to_gbnf(schema_json: str) -> str:
    """The grammar of the JSON texts that fit a JSON schema, checked like any other.

    schema_json: the schema as text, at most `MAX_SCHEMA_BYTES` and `MAX_SCHEMA_DEPTH` levels
    deep, referring to no other document. Raises GrammarError.
    """
    _check_text("JSON schema", schema_json, MAX_SCHEMA_BYTES)
    try:
        schema = json.loads(schema_json)
    except json.JSONDecodeError as error:
        raise GrammarError(
            f"the JSON schema is not JSON: {error.msg} in line {error.lineno}, column "
            f"{error.colno}: correct it"
        ) from None
    except ValueError:  # a whole number of more digits than Python reads
        raise GrammarError("the JSON schema holds a number of too many digits: cut it") from None
    except RecursionError:
        raise _schema_too_deep() from None
    if not isinstance(schema, dict):
        raise GrammarError(f"the JSON schema is {_json_kind(schema)}: give an object")
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise _schema_too_deep()
    with closing(Child()) as child:
        request = {"schema": json.dumps(_reference_inside(schema))}
        gbnf = str(_ask(child, "schema", request, "JSON schema"))
        check_grammar_with(child, gbnf)
    return gbnf


def _reference_inside(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema without a reference at its top, beside which the converter would not
    look for definitions; schemas of recursive types are written so."""
    if "$ref" not in schema:
        return schema
    others = {key: value for key, value in schema.items() if key != "$ref"}
    return {**others, "anyOf": [{"$ref": schema["$ref"]}]}


def _check_text(what: str, text: str, max_bytes: int) -> None:
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise GrammarError(
            f"the {what} holds half a character at {error.start}: write it as valid Unicode"
        ) from None
    if n_bytes > max_bytes:
        raise GrammarError(f"the {what} has {n_bytes} bytes, the limit is {max_bytes}: shorten it")
    if "\0" in text:  # native code would take it for the end
        raise GrammarError(f"the {what} holds a NUL at {text.index(chr(0))}: remove it")


def _ask(child: Child, job: str, request: dict[str, str], what: str) -> Any:
    try:
        return child.ask(job, request, limit_s=_LIMIT_S, n_bytes=_MEMORY_BYTES)
    except ChildDied as error:
        raise GrammarError(
            f"the {what} makes llama.cpp fail: the process that tried it {error}: simplify it"
        ) from None
    except ChildRefused as error:
        reason = " ".join(str(error).split())[:300]
        raise GrammarError(f"the {what} is refused: {reason}: correct it") from None


def _depth(value: Any) -> int:
    """Levels of a JSON value, without recursion of our own."""
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        item, level = waiting.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, level)
            inner = item.values() if isinstance(item, dict) else item
            waiting.extend((child, level + 1) for child in inner)
    return deepest


def _json_kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _schema_too_deep() -> GrammarError:
    return GrammarError(
        f"the JSON schema is nested deeper than {MAX_SCHEMA_DEPTH} levels: flatten it"
    )
