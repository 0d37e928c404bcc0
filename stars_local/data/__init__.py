"""Prompt sets and calibrations that come with the package; the texts are of our own writing."""

from __future__ import annotations

import json
from pathlib import Path

from stars_local.core.errors import DataError
from stars_local.core.records import Message, Prompt

CALIBRATION, CHECK = "calibration", "check"
_FOLDER = Path(__file__).resolve().parent / "prompts"


def shipped_prompts(name: str, system: str | None = None) -> list[Prompt]:
    """A shipped set: `calibration` or `check`, 300 prompts each, every second one risky.

    Each set has 150 topics, two prompts a topic, and no topic stands in both: topics differ in
    how often they are rejected, and few of them would make two sets that cost differently.
    """
    return read_prompts(_FOLDER / f"{name}.jsonl", system)


def prompts_path(name: str) -> Path:
    """The file of a shipped set."""
    return _FOLDER / f"{name}.jsonl"


def shipped_kinds(name: str) -> dict[str, str]:
    """Whether a prompt of a shipped set is `risky` or `everyday`, by its id."""
    rows = map(json.loads, prompts_path(name).read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["kind"] for row in rows}


def reference_text() -> str:
    """A text to measure models on: prompts of our own writing with a model's answers."""
    path = _FOLDER.parent / "reference_answers.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return "\n\n".join(f"{row['prompt']}\n{row['response']}" for row in rows)


def read_prompts(path: Path, system: str | None = None) -> list[Prompt]:
    """Prompts from JSON lines: `prompt` (text), and `id` where lines shall have names.

    Raises DataError with the file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read prompts: {error}") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row["prompt"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: expected a JSON object with 'prompt': {error}"
            ) from error
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{path}, line {number}: 'prompt' is empty or not text")
        messages = () if system is None else (Message("system", system),)
        prompts.append(
            Prompt(str(row.get("id", f"line {number}")), (*messages, Message("user", text)))
        )
    if not prompts:
        raise DataError(f"{path}: no prompts in the file")
    return prompts
