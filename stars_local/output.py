"""What the program says in JSON: one object an answer, one line an attempt.

The object's keys are a contract, versioned by `schema`. Numbers are finite or null: where a
method has no reward, threshold or probability, and where a threshold is infinite, null stands.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from typing import Any

from stars_local.core.plain import plain_attempt, plain_segment
from stars_local.core.records import Attempt, ModelInfo, Result, RewardInfo

SCHEMA = 1
_PACKAGES = ("stars-local", "llama-cpp-python", "onnxruntime", "onnxruntime-gpu", "tokenizers")


def result_object(
    result: Result,
    *,
    params: Mapping[str, object],
    model: ModelInfo,
    reward_model: RewardInfo | None,
) -> dict[str, Any]:
    """The object of `generate --json`; params are recorded as they were used."""
    return {
        "schema": SCHEMA,
        "method": result.method,
        "text": result.text,
        "finish_reason": result.finish_reason.value,
        "segments": [plain_segment(segment) for segment in result.segments],
        "n_prompt_tokens": result.n_prompt_tokens,
        "n_kept_tokens": result.n_kept_tokens,
        "n_rejected_tokens": result.n_rejected_tokens,
        "n_spare_tokens": result.n_spare_tokens,
        "n_decoded_tokens": result.n_decoded_tokens,
        "n_rm_calls": result.n_rm_calls,
        "n_rm_batches": result.n_rm_batches,
        "elapsed_s": round(result.elapsed_s, 6),
        "seed": result.seed,
        "params": {name: _recorded(value) for name, value in params.items()},
        "model": {
            "name": model.name,
            "path": model.path,
            "sha256": model.sha256,
            "quant": model.quant,
            "adapters": json.loads(model.adapters),
        },
        "reward_model": None
        if reward_model is None
        else {
            "name": reward_model.name,
            "sha256": reward_model.sha256,
            "axis": reward_model.axis,
        },
        "versions": versions(),
    }


def attempt_object(attempt: Attempt) -> dict[str, Any]:
    """The line of `generate --events` for one attempt, as it is judged.

    An attempt that is forced in the end has two lines, rejected and then forced.
    """
    return {"event": "attempt", **plain_attempt(attempt)}


def to_line(found: Mapping[str, Any]) -> str:
    """One line of JSON, without the newline; NaN and infinity raise ValueError."""
    return json.dumps(found, ensure_ascii=False, allow_nan=False)


def versions() -> dict[str, str]:
    """The versions of what took part, by package; packages that are absent are left out."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _recorded(value: object) -> object:
    """A parameter as JSON has it: an infinite number is written out, since null means unset."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
