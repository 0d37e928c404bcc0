"""The answers that rewards are measured against: they set mean and spread of every axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stars_local.core.errors import DataError
from stars_local.core.records import Prompt
from stars_local.preferences.pairs import read_pairs
from stars_local.preferences.records import read_records
from stars_local.reward.score_lines import read_item

_SHIPPED = Path(__file__).resolve().parents[1] / "data" / "reference_answers.jsonl"
_MIN_TEXTS = 8


def reference_texts(path: Path | None) -> tuple[str, Sequence[tuple[Prompt, str]]]:
    """What the texts are, in words, and the texts; None means the shipped ones.

    The file has a line ``{prompt, response}`` each, or is any preference file, of which both
    responses count. The shipped ones are plain answers of SmolLM2-135M-Instruct (Q4_1, at
    temperature 1 and top-k 40) of up to 64 tokens to prompts of our own writing. DataError where
    there are fewer than 8.
    """
    if path is None:
        texts = _read(_SHIPPED)
        words = f"{len(texts)} plain answers of SmolLM2-135M-Instruct to prompts of our own"
    else:
        texts = _read(path)
        words = f"{len(texts)} responses of {path.name}"
    if len(texts) < _MIN_TEXTS:
        raise DataError(f"{path}: {len(texts)} responses, a spread needs at least {_MIN_TEXTS}")
    return words, texts


def _read(path: Path) -> list[tuple[Prompt, str]]:
    from stars_local.reward.accuracy_on_pairs import to_prompt

    first = next(iter(read_records(path)), None)
    if (
        first is not None
        and isinstance(first.values.get("response"), str)
        and ("label" not in first.values)
    ):
        return [read_item(record.values, f"{path}:{record.line}") for record in read_records(path)]
    return [
        (to_prompt(pair.prompt, pair.line), text)
        for pair in read_pairs(path, "reference")
        for text in (pair.chosen, pair.rejected)
    ]
