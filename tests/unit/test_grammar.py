"""Grammars that llama.cpp would die of, or take for something else, are refused in one line."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_cpp import llama_grammar

from stars_local.core.errors import GrammarError
from stars_local.llama import grammar
from stars_local.llama.child import Child
from stars_local.llama.grammar import (
    MAX_GRAMMAR_BYTES,
    MAX_SCHEMA_BYTES,
    check_grammar,
    check_grammar_with,
    schema_to_gbnf,
)
from stars_local.llama.grammar_shape import check_shape


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    helper = Child()
    yield helper
    helper.close()


def refusal(child: Child, gbnf: str) -> str:
    with pytest.raises(GrammarError) as caught:
        check_grammar_with(child, gbnf)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def groups(n_levels: int, inside: str = '"a"') -> str:
    return "root ::= " + "(" * n_levels + inside + ")" * n_levels


def chain(n_rules: int, end: str) -> str:
    rules = [f"r{i} ::= r{i + 1}" for i in range(n_rules)]
    return "\n".join(["root ::= r0", *rules, f"r{n_rules} ::= {end}"])


EXAMPLES = {
    name: getattr(llama_grammar, name) for name in dir(llama_grammar) if name.endswith("_GBNF")
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_grammars_that_come_with_llama_cpp_pass(name: str, child: Child) -> None:
    check_grammar_with(child, EXAMPLES[name])


@pytest.mark.parametrize(
    "gbnf",
    [
        'root ::= "a"',
        'root ::= "yes" | "no" # or so',
        'root ::= "x" root | "y"',
        'root ::= item+\nitem ::= "- " [^\\n]+ "\\n"',
        'root ::= ws "a"\nws ::= ([ \\t\\n] ws)?',
        'root ::= ("a"* | ws)*\nws ::= " "?',
        'root ::= "(" root ")" | [a-z]{1,3}',
        'root ::= "root" "root ::= root"',
        'root ::= [\\]"(] "#(" # root ::= root (((',
        groups(100),
        chain(900, '"a"'),
    ],
)
def test_sound_grammars_pass(gbnf: str, child: Child) -> None:
    check_grammar_with(child, gbnf)


@pytest.mark.parametrize(
    ("gbnf", "wanted"),
    [
        ("", "is empty"),
        (" \n\t ", "is empty"),
        ("# nothing\n", "no rule `root`"),
        ('start ::= "a"', "no rule `root`"),
        ("root ::= " + '"a" ' * MAX_GRAMMAR_BYTES, f"the limit is {MAX_GRAMMAR_BYTES}"),
        ('root ::= "a"\0 root', "a NUL at 12"),
        ('root ::= "\ud800"', "half a character"),
        ('root ::= "a', "unexpected end of input"),
        ('root = "a"', "expecting ::="),
        ("root ::= nowhere", "Undefined rule identifier 'nowhere'"),
        ('root ::= ("a" | "b"', "expecting ')'"),
        ('root ::= "a" )', "expecting newline or end"),
        ('root ::= "\\xZZ"', "hex"),
        ("root ::= [a-", "unexpected end"),
        ("root ::= {}", "refused"),
        ('root ::= ("a"{0,1000}){0,1000}', "repe"),
        ("root ::= <think>", "no vocab"),
    ],
)
def test_what_is_no_grammar_says_why(gbnf: str, wanted: str, child: Child) -> None:
    assert wanted in refusal(child, gbnf)


@pytest.mark.parametrize(
    ("gbnf", "cycle"),
    [
        ('root ::= root "a" | "b"', "root -> root"),
        ('root ::= a\na ::= b "x"\nb ::= a | "q"', "a -> b -> a"),
        ('root ::= "x" loop\nloop ::= "y" | loop "a"', "loop -> loop"),
        ('root ::= ws root "a" | "b"\nws ::= " "*', "root -> root"),
        ('root ::= ("" | "x"?) (("q" | root)) | "b"', "root -> root"),
        ('root ::= "a"{0,3} root', "root -> root"),
        ('root ::= e f root | "b"\ne ::= f\nf ::= [a]?', "root -> root"),
        (chain(8, "r2"), "r2 -> r3 -> r4 -> ... -> r2"),
    ],
)
def test_left_recursion_is_found_and_its_rules_named(gbnf: str, cycle: str, child: Child) -> None:
    assert f"left-recursive ({cycle})" in refusal(child, gbnf)


@pytest.mark.parametrize("n_levels", [101, 20_000, 100_000])
def test_depth_is_refused_before_native_code_sees_it(n_levels: int, child: Child) -> None:
    assert "nested deeper than 100" in refusal(child, groups(n_levels))
    assert "nested deeper" in refusal(child, "root ::= " + "(" * n_levels)


def test_chains_of_rules_are_bounded_also_behind_their_groups(child: Child) -> None:
    assert "1000 levels" in refusal(child, chain(1_100, '"a"'))
    assert "5000 rules" in refusal(child, chain(6_000, '"a"'))
    deep = [f"r{i} ::= {'(' * 90}r{i + 1}{')' * 90}" for i in range(20)]
    assert "1000 levels" in refusal(child, "\n".join(["root ::= r0", *deep, 'r20 ::= "a"']))
    empty = [f"r{i} ::= r{i + 1}?" for i in range(1_100)]
    assert "1000 levels" in refusal(child, "\n".join(["root ::= r0", *empty, 'r1100 ::= "a"']))


def test_a_death_of_native_code_is_a_refusal(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "check_shape", lambda _: None)
    monkeypatch.setattr(grammar, "MAX_GRAMMAR_BYTES", 1 << 24)
    assert "killed by SIG" in refusal(child, groups(100_000))
    check_grammar_with(child, 'root ::= "a"')


fragments = st.sampled_from(
    [
        "root",
        "a",
        "b",
        "::=",
        '"x"',
        '""',
        "[a-z]",
        "(",
        ")",
        "|",
        "*",
        "?",
        "{0,2}",
        "\n",
        '"',
        ".",
    ]
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(gbnf=st.lists(fragments, max_size=25).map(" ".join))
def test_no_text_kills_hangs_or_escapes_the_check(gbnf: str, child: Child) -> None:
    try:
        check_grammar_with(child, f"root ::= {gbnf}")
    except GrammarError as error:
        assert "\n" not in str(error) and "killed" not in str(error)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_left_recursion_agrees_with_a_search_on_random_grammars(seed: int) -> None:
    """The oracle walks derivations: which rules can stand first, empty rules stepped over."""
    draw = random.Random(seed)
    names = ["root", "a", "b", "c"]
    bodies = {
        name: [
            [draw.choice([*names, "'x'", "'x'"]) + draw.choice(["", "", "?"]) for _ in range(3)]
            for _ in range(2)
        ]
        for name in names
    }
    gbnf = "\n".join(
        f"{name} ::= " + " | ".join(" ".join(parts) for parts in body).replace("'", '"')
        for name, body in bodies.items()
    )
    empty: set[str] = set()
    for _ in names:
        for name, body in bodies.items():
            if any(all(p.endswith("?") or p in empty for p in parts) for parts in body):
                empty.add(name)
    first: dict[str, set[str]] = {name: set() for name in names}
    for name, body in bodies.items():
        for parts in body:
            for part in parts:
                first[name] |= {part.rstrip("?")} & set(names)
                if not (part.endswith("?") or part in empty):
                    break
    for _ in names:
        first = {n: seen.union(*(first[m] for m in seen)) for n, seen in first.items()}
    if any(name in first[name] for name in names):
        with pytest.raises(GrammarError, match="left-recursive"):
            check_shape(gbnf)
    else:
        check_shape(gbnf)


def test_a_grammar_that_passed_costs_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gbnf = 'root ::= "remembered"'
    check_grammar(gbnf)
    monkeypatch.setattr(grammar, "Child", None)
    check_grammar(gbnf)
    with pytest.raises(TypeError):
        check_grammar('root ::= "another"')


SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
    {"enum": ["yes", "no", 3, None]},
    {"$ref": "#/$defs/tree", "title": "Tree", "$defs": {"tree": {"type": "object", "properties": {
        "left": {"$ref": "#/$defs/tree"}}}}},
    {"type": "string", "pattern": "^[a-z]{2,4}$"},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS)
def test_schemas_become_grammars_that_pass(schema: dict[str, Any], child: Child) -> None:
    gbnf = schema_to_gbnf(json.dumps(schema))
    assert "root ::=" in gbnf
    check_grammar_with(child, gbnf)


def nested(n_levels: int) -> str:
    return '{"not": ' * n_levels + "{}" + "}" * n_levels


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ("", "not JSON"),
        ("{'a': 1}", "line 1, column 2"),
        ("[1]", "is an array"),
        ("true", "is a truth value"),
        ("3", "is a number"),
        ('{"type": "colour"}', "Unrecognized schema"),
        ('{"$ref": "https://example.com/x.json"}', "remote schemas is not allowed"),
        ('{"$ref": "other.json"}', "Unsupported ref other.json"),
        ('{"$ref": "#/nowhere"}', "nowhere"),
        ('{"$ref": 3}', "refused"),
        ('{"type": "string", "pattern": "a"}', "refused"),
        ('{"type": "array", "items": {}, "minItems": 1000000000}', "JSON schema|grammar"),
        ('{"minimum": ' + "1" * 5000 + "}", "too many digits"),
        (nested(65), "deeper than 64"),
        (nested(200_00), "deeper than 64"),
        ('{"a": "' + "x" * MAX_SCHEMA_BYTES + '"}', f"the limit is {MAX_SCHEMA_BYTES}"),
        ('{"a": "\ud800"}', "half a character"),
    ],
)
def test_bad_schemas_say_why(schema: str, wanted: str) -> None:
    with pytest.raises(GrammarError, match=wanted) as caught:
        schema_to_gbnf(schema)
    assert "\n" not in str(caught.value)
