"""Measures the shape of a GBNF grammar: the things that llama.cpp's own parser dies of.

llama.cpp walks a grammar by recursion: into groups while parsing, and from a rule into the
rules that it may begin with while matching. So the depth of both is bounded, and a rule that
may begin with itself (left recursion, also through rules that may be empty) is refused. Text
that is no GBNF is none of this module's business: llama.cpp's parser names what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from stars_local.core.errors import GrammarError

# llama.cpp survives about 5,000 levels of groups and 20,000 of rules on an 8 MB stack;
# other threads than the first may have a sixteenth of that.
MAX_GROUP_DEPTH = 100
MAX_BEGINNING_DEPTH = 1_000
MAX_RULES = 5_000

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    | (?P<literal>"(?:\\.|[^"\\])*" | \[(?:\\.|[^\]\\])*\] | !?<[^>]*> | \.)
    | (?P<rule>[\w-]+\s*::=)
    | (?P<name>[\w-]+)
    | (?P<repeat>[*+?]|\{[^}]*\})
    | (?P<mark>[()|])
    | (?P<stray>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(slots=True)
class _Group:
    """Alternatives, each a sequence of parts. A part is the name of a rule, a group, or None
    for text; `may_be_empty` is set where a repetition allows none of it."""

    depth: int
    alternatives: list[list[_Part]] = field(default_factory=lambda: [[]])


@dataclass(slots=True)
class _Part:
    content: str | _Group | None
    may_be_empty: bool = False


def check_shape(gbnf: str) -> None:
    """Raise GrammarError if the grammar is too deep, has too many rules, no `root`, or a rule
    that may begin with itself."""
    rules = _rules(gbnf)
    if rules is None:  # llama.cpp's parser says what is wrong with it
        return
    if "root" not in rules:
        raise GrammarError("the grammar has no rule `root`: add one, such as root ::= ...")
    _check_beginnings(rules, _empty_rules(rules))


def _rules(gbnf: str) -> dict[str, _Group] | None:
    """The rules by name, None if there is something in the text that GBNF does not have."""
    rules: dict[str, _Group] = {}
    well_formed = True
    open_groups = [_Group(0)]
    for match in _TOKEN.finditer(gbnf):
        kind, text = match.lastgroup, match.group()
        sequence = open_groups[-1].alternatives[-1]
        if kind == "rule":
            open_groups = [_Group(0)]
            rules[text[:-3].rstrip()] = open_groups[0]
            if len(rules) > MAX_RULES:
                raise GrammarError(f"the grammar has more than {MAX_RULES} rules: simplify it")
        elif kind == "literal":
            sequence.append(_Part(None, may_be_empty=text == '""'))
        elif kind == "name":
            sequence.append(_Part(text))
        elif kind == "repeat" and sequence:
            if text in ("*", "?") or re.match(r"\{\s*0*\s*[,}]", text):
                sequence[-1].may_be_empty = True
        elif text == "(":
            group = _Group(len(open_groups))
            if group.depth > MAX_GROUP_DEPTH:
                raise GrammarError(
                    f"the grammar has groups nested deeper than {MAX_GROUP_DEPTH} levels: "
                    "use rules in place of groups"
                )
            sequence.append(_Part(group))
            open_groups.append(group)
        elif text == ")" and len(open_groups) > 1:
            open_groups.pop()
        elif text == "|":
            open_groups[-1].alternatives.append([])
        elif kind == "stray":
            well_formed = False
    return rules if well_formed else None


def _is_empty(part: _Part, empty: set[str]) -> bool:
    if part.may_be_empty or part.content is None:
        return part.may_be_empty
    if isinstance(part.content, str):
        return part.content in empty
    return _may_be_empty(part.content, empty)


def _may_be_empty(group: _Group, empty: set[str]) -> bool:
    for parts in group.alternatives:
        for part in parts:
            if not _is_empty(part, empty):
                break
        else:
            return True
    return False


def _empty_rules(rules: Mapping[str, _Group]) -> set[str]:
    """The rules that match the empty text: the least fixed point."""
    empty: set[str] = set()
    for _ in range(MAX_BEGINNING_DEPTH):
        found = {
            name
            for name, group in rules.items()
            if name not in empty and _may_be_empty(group, empty)
        }
        if not found:
            return empty
        empty |= found
    raise _too_deep()


def _beginnings(group: _Group, empty: set[str], found: dict[str, int]) -> dict[str, int]:
    """The rules that a group may begin with, each with the most levels down to it."""
    for parts in group.alternatives:
        for part in parts:
            if isinstance(part.content, str):
                levels = group.depth + 1
                found[part.content] = max(levels, found.get(part.content, 0))
            elif part.content is not None:
                _beginnings(part.content, empty, found)
            if not _is_empty(part, empty):
                break
    return found


def _check_beginnings(rules: Mapping[str, _Group], empty: set[str]) -> None:
    """Depth-first over "may begin with", without recursion of our own."""
    edges = {name: _beginnings(group, empty, {}) for name, group in rules.items()}
    depth: dict[str, int] = {}
    for start in rules:
        path = [start] if start not in depth else []
        waiting = [iter(edges[start])] if path else []
        while path:
            following = next(waiting[-1], None)
            if following is None:
                name = path.pop()
                waiting.pop()
                below = (depth.get(n, 0) + levels for n, levels in edges[name].items())
                depth[name] = max(below, default=0)
                if depth[name] > MAX_BEGINNING_DEPTH:
                    raise _too_deep()
            elif following in path:
                cycle = [*path[path.index(following) :], following]
                raise GrammarError(
                    f"the grammar is left-recursive ({_shown(cycle)}): "
                    "let the rule begin with something else than itself"
                )
            elif following not in depth and following in edges:
                path.append(following)
                waiting.append(iter(edges[following]))
                if len(path) > MAX_BEGINNING_DEPTH:
                    raise _too_deep()


def _shown(cycle: list[str]) -> str:
    names = [name[:40] for name in cycle]
    return " -> ".join(names if len(names) <= 6 else [*names[:3], "...", names[-1]])


def _too_deep() -> GrammarError:
    return GrammarError(
        f"the grammar has rules that begin with rules over more than {MAX_BEGINNING_DEPTH} "
        "levels: flatten it"
    )
