"""The files of a run: a line per answer, and a manifest that says what the run is.

`results.jsonl` only grows while a run goes on: every line is written whole and fsynced. When a run
is taken up again, cohorts that were not complete lose their lines (by an atomic replacement of
the file) and run again whole. All but `elapsed_s` depends on the manifest alone.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stars_local.core import files
from stars_local.core.errors import DataError, UsageError
from stars_local.core.plain import finite, plain_attempt, plain_segment
from stars_local.core.records import Attempt, Result
from stars_local.core.strict_json import parse_json

SCHEMA = 1
RESULTS, MANIFEST, SUMMARY = "results.jsonl", "manifest.json", "summary.json"
Line = dict[str, Any]
_SHOWN = 60  # characters of a value in a message


def answer_line(
    arm: str,
    cohort: int,
    result: Result,
    rewards: Mapping[str, float],
    attempts: Sequence[Attempt],
) -> Line:
    """The line of one answer. rewards: of the finished text, by judge."""
    return {
        "schema": SCHEMA,
        "prompt_id": result.prompt_id,
        "arm": arm,
        "cohort": cohort,
        "method": result.method,
        "text": result.text,
        "finish_reason": result.finish_reason.value,
        "rewards": {name: finite(value) for name, value in rewards.items()},
        "initial_reward": finite(result.initial_reward),
        "n_prompt_tokens": result.n_prompt_tokens,
        "n_kept_tokens": result.n_kept_tokens,
        "n_rejected_tokens": result.n_rejected_tokens,
        "n_spare_tokens": result.n_spare_tokens,
        "n_decoded_tokens": result.n_decoded_tokens,
        "n_rm_calls": result.n_rm_calls,
        "n_rm_batches": result.n_rm_batches,
        "n_rm_tokens": result.n_rm_tokens,
        "seed": result.seed,
        "elapsed_s": round(result.elapsed_s, 6),
        "segments": [plain_segment(segment) for segment in result.segments],
        "attempts": [plain_attempt(attempt) for attempt in attempts],
    }


class ResultsFile:
    """The answers of a run on disk; one process writes it at a time, see `held`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RESULTS

    def resume(self, cohorts: Mapping[tuple[str, int], Sequence[str]]) -> list[Line]:
        """Keep the lines of complete cohorts, drop all others, and return those kept. The file is
        there then: a shard may get no cohort.

        cohorts: the prompt ids that (arm, cohort) has when it is complete.
        """
        lines = list(read_lines(self.path, forgive_last=True)) if self.path.exists() else []
        kept = [
            line
            for key, by_id in by_cohort(lines).items()
            if key in cohorts and set(by_id) == set(cohorts[key])
            for line in by_id.values()
        ]
        if len(kept) != len(lines) or not self.path.exists() or not _ends_whole(self.path):
            write_atomically(self.path, "".join(map(to_text, kept)))
        return kept

    def append(self, line: Line) -> None:
        """Add one answer; it is on disk when this returns."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(to_text(line))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"{self.path}: cannot write: {error.strerror}") from error


def by_cohort(lines: Iterable[Line]) -> dict[tuple[str, int], dict[str, Line]]:
    """The lines by (arm, cohort), in each by prompt id; of two of one id the later."""
    found: dict[tuple[str, int], dict[str, Line]] = defaultdict(dict)
    for line in lines:
        found[line["arm"], line["cohort"]][line["prompt_id"]] = line
    return found


def read_lines(path: Path, *, forgive_last: bool = False) -> Iterable[Line]:
    """The answers in a file. forgive_last: leave out a last line that was cut while written."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the results: {error.strerror}") from error
    pieces = raw.split(b"\n")
    for number, line in enumerate(pieces, start=1):
        if not line or (forgive_last and number == len(pieces)):
            continue
        try:
            found = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not a line of results: {error}") from error
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise DataError(f"{path}:{number}: not a line of results of schema {SCHEMA}")
        yield found


def check_folder(folder: Path) -> None:
    """Raise UsageError where no run can be kept in `folder`."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: give --out a folder")


def check_file(path: Path) -> None:
    """Raise UsageError where no file can be made at `path`."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give a file's name")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: no folder {path.parent}: make it first")


def claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make a run's folder, or check that it holds this very run.

    Raises UsageError naming the first value that differs, and both of it.
    """
    path = folder / MANIFEST
    wanted = json.loads(json.dumps(manifest, allow_nan=False))
    if path.exists():
        found = read_manifest(folder)
        differs = first_difference(found["run"], wanted["run"])
        if differs is not None:
            where, begun, now = differs
            raise UsageError(
                f"{folder} holds another run: {where} was {begun}, now it is {now}: give another "
                "--out, or the options it was begun with"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot make the folder: {error.strerror}") from error
    if (folder / RESULTS).exists():
        raise UsageError(f"{folder} has results without a manifest: give another --out")
    write_atomically(path, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")


def first_difference(begun: Any, now: Any, where: str = "") -> tuple[str, str, str] | None:
    """The first place at which two values of JSON differ, and what stands there in both."""
    if isinstance(begun, dict) and isinstance(now, dict):
        for key in {**begun, **now}:
            place = f"{where}, {key}" if where else str(key)
            if key in begun and key in now:
                if (found := first_difference(begun[key], now[key], place)) is not None:
                    return found
            else:
                was, is_now = (
                    _shortly(each[key]) if key in each else "not there" for each in (begun, now)
                )
                return place, was, is_now
        return None
    if begun == now:
        return None
    if isinstance(begun, list) and isinstance(now, list):
        if len(begun) != len(now):
            return where, f"{len(begun)} values", f"{len(now)} values"
        at = next(i for i, (was, other) in enumerate(zip(begun, now, strict=True)) if was != other)
        return first_difference(begun[at], now[at], f"{where} [{at}]")
    return where, _shortly(begun), _shortly(now)


def _shortly(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def need_every_answer(run: Mapping[str, Any], found: Container[tuple[str, str]], what: str) -> None:
    """Raise DataError unless each arm of a manifest's run answered each prompt.

    found: the (arm, prompt id) that are there. what: is to be finished first.
    """
    missing = [
        (arm, name) for arm in run["arms"] for name in run["prompt_ids"] if (arm, name) not in found
    ]
    if missing:
        arm, name = missing[0]
        raise DataError(
            f"{len(missing)} answers are missing, the first is {arm} on {name}: finish {what} first"
        )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """A claimed folder for this process alone. Raises UsageError where another has it."""
    import fcntl

    path = folder / MANIFEST
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"another process is at work in {folder}: wait for it, or give another --out"
            ) from None
        if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise UsageError(f"another process has just begun {folder}: give another --out")
        yield


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run's folder."""
    path = folder / MANIFEST
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the manifest of a run: {error}") from error
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("run"), dict)
        or found.get("schema") != SCHEMA
    ):
        raise DataError(f"{path}: not a manifest of schema {SCHEMA}")
    return found


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is whole or not there."""
    try:
        files.write_atomically(path, text.encode("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot write: {error.strerror}") from error


def to_text(line: Mapping[str, Any]) -> str:
    """A line of results, newline included."""
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def _ends_whole(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
