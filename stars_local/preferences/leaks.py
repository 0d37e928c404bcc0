"""Keep what is tested out of what is trained on.

A training row is dropped when its normalised text stands in a test file of any source: the
chosen or the rejected response, its prompt, or the whole dialogue. Short stock answers
("I'm sorry, I can't help with that") coincide by chance and are dropped all the same: a
figure on held-out texts must not rest on texts that were trained on.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from stars_local.preferences.pairs import Pair, parse_dialogue
from stars_local.preferences.records import read_records


def normalise(text: str) -> str:
    """Letters and digits only, in lower case and compatibility form."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return "".join(char for char in folded if char.isalnum())


def texts_of_files(paths: Iterable[Path]) -> set[str]:
    """The normalised texts of test files: every text field, and every turn of a dialogue."""
    found: set[str] = set()
    for path in paths:
        for record in read_records(path):
            for value in record.values.values():
                found.update(_texts(value))
    found.discard("")
    return found


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        # Bare numbers are labels and indices, not texts.
        if value.strip().isdecimal():
            return
        yield normalise(value)
        try:
            turns = parse_dialogue(value)
        except ValueError:
            return
        contents = [content for _, content in turns]
        yield from map(normalise, contents)
        yield normalise("".join(contents))
        yield normalise("".join(contents[:-1]))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)


def drop_leaks(pairs: Iterable[Pair], tested: set[str]) -> tuple[list[Pair], Counter[str]]:
    """The pairs none of whose texts is tested, and how many were dropped, by source."""
    kept: list[Pair] = []
    dropped: Counter[str] = Counter()
    for pair in pairs:
        if tested.isdisjoint(pair_texts(pair)):
            kept.append(pair)
        else:
            dropped[pair.source] += 1
    return kept, dropped


def pair_texts(pair: Pair) -> list[str]:
    """The normalised texts a pair consists of, without empty ones."""
    prompt = "".join(content for _, content in pair.prompt)
    texts = [pair.chosen, pair.rejected, prompt, prompt + pair.chosen, prompt + pair.rejected]
    return [text for text in map(normalise, texts) if text]
