"""What to train on: the specification of a data source, and all sources read and cleaned.

A specification is ``AXIS=PATH[,key=value...]``:

    harmless=hh/harmless-base/train.jsonl.gz,licence=MIT
    harmless=gptfuzz/train.csv.gz,licence=MIT,prompts=gptfuzz/question_list.csv.gz,max_rows=1500
    sentiment=reviews.csv,licence=MIT,where=source:imdb,max_response_tokens=64

| key | meaning |
|---|---|
| licence | required: goes into the card, and decides whether the model may ship |
| name | how the card calls the source; by default the file's name and its folder's |
| prompts | a CSV of index, text that the file's prompts are indices into |
| better | the label of the better rows of a labelled file |
| where | COLUMN:VALUE: only these rows |
| unique | yes: a pair that stands in the file again is used once |
| max_rows | at most so many pairs, drawn at random |
| max_response_tokens | responses keep so many first tokens |
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stars_local.core.errors import DataError, UsageError
from stars_local.core.files import sha256_of
from stars_local.preferences.leaks import drop_leaks, normalise, texts_of_files
from stars_local.preferences.pairs import Pair, read_pairs

_KEYS = (
    "licence",
    "name",
    "prompts",
    "better",
    "where",
    "unique",
    "max_rows",
    "max_response_tokens",
)
_NON_COMMERCIAL = ("-NC", "NON-COMMERCIAL", "NONCOMMERCIAL", "RESEARCH")


@dataclass(frozen=True)
class SourceSpec:
    """One data source as the command line gives it."""

    axis: str
    path: Path
    licence: str
    name: str
    prompts: Path | None = None
    better: str | None = None
    where: tuple[str, str] | None = None
    unique: bool = False
    max_rows: int | None = None
    max_response_tokens: int | None = None

    @property
    def is_permissive(self) -> bool:
        """False for licences that forbid commercial use: such a model must not ship."""
        return not any(mark in self.licence.upper() for mark in _NON_COMMERCIAL)

    @classmethod
    def parse(cls, text: str) -> SourceSpec:
        """Read ``AXIS=PATH[,key=value...]``; UsageError says what is wrong with it."""
        head, *options = text.split(",")
        axis, equals, path = head.partition("=")
        if not equals or not axis or not path:
            raise UsageError(f"--data {text!r}: expected AXIS=PATH[,key=value...]")
        values: dict[str, str] = {}
        for option in options:
            key, equals, value = option.partition("=")
            if not equals or key not in _KEYS:
                raise UsageError(
                    f"--data {text!r}: {option!r} is not one of {', '.join(_KEYS)} with a value"
                )
            values[key] = value
        if not values.get("licence"):
            raise UsageError(f"--data {text!r}: add licence=NAME, the card must state it")
        column, colon, wanted = values.get("where", "").partition(":")
        if "where" in values and not colon:
            raise UsageError(f"--data {text!r}: where needs COLUMN:VALUE")
        if values.get("unique", "no") not in {"yes", "no"}:
            raise UsageError(f"--data {text!r}: unique must be yes or no")
        file = Path(path)
        return cls(
            axis=axis,
            path=file,
            licence=values["licence"],
            name=values.get("name", f"{file.parent.name}/{file.name}"),
            prompts=Path(values["prompts"]) if "prompts" in values else None,
            better=values.get("better"),
            where=(column, wanted) if colon else None,
            unique=values.get("unique") == "yes",
            max_rows=_count(text, values, "max_rows"),
            max_response_tokens=_count(text, values, "max_response_tokens"),
        )


def _count(text: str, values: dict[str, str], key: str) -> int | None:
    if key not in values:
        return None
    if not values[key].isdecimal() or int(values[key]) < 1:
        raise UsageError(f"--data {text!r}: {key} must be a whole number of at least 1")
    return int(values[key])


@dataclass
class TrainingData:
    """The cleaned pairs of all sources, and what the card says of each source and file."""

    pairs: list[Pair] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    test_files: list[dict[str, Any]] = field(default_factory=list)


def load_sources(
    specs: Sequence[SourceSpec], test_files: Sequence[Path], seed: int
) -> TrainingData:
    """Read all sources, drop what stands in a test file, then apply each `max_rows`.

    Pairs whose two responses are equal say nothing and are dropped too; both are counted.
    DataError where a source has nothing left.
    """
    names = [spec.name for spec in specs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UsageError(f"two --data sources are called {doubled[0]!r}: give one a name=...")
    tested = texts_of_files(test_files)
    data = TrainingData(
        test_files=[{"file": _label(path), "sha256": sha256_of(path)} for path in test_files]
    )
    for spec in specs:
        excluded: list[str] = []

        def is_excluded(text: str, excluded: list[str] = excluded) -> bool:
            if normalise(text) not in tested:
                return False
            excluded.append(text)
            return True

        read = list(
            read_pairs(
                spec.path,
                spec.axis,
                source=spec.name,
                prompts=spec.prompts,
                better_label=spec.better,
                where=spec.where,
                seed=seed,
                is_excluded=is_excluded,
            )
        )
        told_apart = [pair for pair in read if pair.chosen.strip() != pair.rejected.strip()]
        different = _first_of_each(told_apart) if spec.unique else told_apart
        kept, dropped = drop_leaks(different, tested)
        n_clean = len(kept)
        if spec.max_rows is not None and n_clean > spec.max_rows:
            kept = random.Random(f"{seed}:{spec.name}").sample(kept, spec.max_rows)
        if not kept:
            raise DataError(f"{spec.path}: no pair is left of {len(read)} read")
        data.pairs += kept
        data.sources.append(
            {
                "name": spec.name,
                "axis": spec.axis,
                "file": _label(spec.path),
                "sha256": sha256_of(spec.path),
                "prompts_sha256": None if spec.prompts is None else sha256_of(spec.prompts),
                "licence": spec.licence,
                "where": None if spec.where is None else ":".join(spec.where),
                "max_response_tokens": spec.max_response_tokens,
                "labelled_rows_in_test_files_dropped": len(excluded),
                "pairs_read": len(read),
                "pairs_equal_dropped": len(read) - len(told_apart),
                "pairs_repeated_dropped": len(told_apart) - len(different),
                "pairs_in_test_files_dropped": sum(dropped.values()),
                "pairs_left_out_by_max_rows": n_clean - len(kept),
                "pairs_used": len(kept),
            }
        )
    return data


def _first_of_each(pairs: Sequence[Pair]) -> list[Pair]:
    found: dict[tuple[object, ...], Pair] = {}
    for pair in pairs:
        found.setdefault((pair.prompt, pair.chosen, pair.rejected), pair)
    return list(found.values())


def _label(path: Path) -> str:
    """Folder and file name: enough to recognise a file, and nothing about the machine."""
    return f"{path.parent.name}/{path.name}"
