"""The JSON contract: exactly these keys, finite numbers only."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from stars_local.core.records import (
    Attempt,
    Finish,
    ModelInfo,
    Outcome,
    Result,
    RewardInfo,
    Segment,
)
from stars_local.output import attempt_object, result_object, to_line, versions

SEGMENT = Segment(0, "yes\u2028\x00", 3, 1.5, -math.inf, 1.0, 2, Outcome.ACCEPTED)
RESULT = Result(
    prompt_id="p",
    method="stars",
    text="yes\u2028\x00",
    finish_reason=Finish.STOP_STRING,
    segments=(SEGMENT,),
    token_ids=(1, 2, 3),
    n_prompt_tokens=4,
    n_reused_tokens=1,
    n_kept_tokens=3,
    n_rejected_tokens=5,
    n_spare_tokens=7,
    n_rm_calls=2,
    n_rm_batches=1,
    n_rm_tokens=20,
    elapsed_s=0.25,
    seed=0,
)
MODEL = ModelInfo("m", "/m.gguf", "ab", "Q4_1", 512)
REWARD = RewardInfo("r", "1", "cd", "harmless", ("harmless",), 512)

KEYS = [
    "schema",
    "method",
    "text",
    "finish_reason",
    "segments",
    "n_prompt_tokens",
    "n_kept_tokens",
    "n_rejected_tokens",
    "n_spare_tokens",
    "n_decoded_tokens",
    "n_rm_calls",
    "n_rm_batches",
    "elapsed_s",
    "seed",
    "params",
    "model",
    "reward_model",
    "versions",
]
SEGMENT_KEYS = [
    "index",
    "text",
    "n_tokens",
    "reward",
    "threshold",
    "probability",
    "n_attempts",
    "outcome",
]


def described(result: Result, reward: RewardInfo | None = REWARD) -> dict[str, object]:
    """The object as a reader of one JSON line gets it."""
    params = {"reward_threshold": -math.inf, "stop": ("a", "b"), "system": None}
    line = to_line(result_object(result, params=params, model=MODEL, reward_model=reward))
    assert "\n" not in line
    found: dict[str, object] = json.loads(line, parse_constant=pytest.fail)
    return found


def test_the_keys_are_the_contract() -> None:
    found = described(RESULT)
    assert list(found) == KEYS
    assert found["schema"] == 1
    assert found["finish_reason"] == "stop_string"
    assert found["n_decoded_tokens"] == 3 + 5 + 7
    assert found["seed"] == 0
    assert found["text"] == RESULT.text
    assert found["model"] == {
        "name": "m",
        "path": "/m.gguf",
        "sha256": "ab",
        "quant": "Q4_1",
        "adapters": {},
    }
    assert found["reward_model"] == {"name": "r", "sha256": "cd", "axis": "harmless"}


def test_infinite_thresholds_are_null_and_infinite_parameters_are_named() -> None:
    found = described(RESULT)
    segments = found["segments"]
    assert isinstance(segments, list)
    assert list(segments[0]) == SEGMENT_KEYS
    assert segments[0]["threshold"] is None
    assert segments[0]["outcome"] == "accepted"
    assert found["params"] == {"reward_threshold": "-inf", "stop": ["a", "b"], "system": None}


def test_a_method_without_rewards_has_nulls() -> None:
    bare = replace(SEGMENT, reward=None, threshold=None, probability=None)
    found = described(replace(RESULT, segments=(bare,)), reward=None)
    assert found["reward_model"] is None
    segments = found["segments"]
    assert isinstance(segments, list)
    assert [segments[0][key] for key in ("reward", "threshold", "probability")] == [None] * 3


def test_an_attempt_is_one_line() -> None:
    attempt = Attempt(
        1, 2, "a\nb", 4, Outcome.REJECTED, 0.5, math.inf, 0.0, {"harmless": 0.5}, passed=False
    )
    found = json.loads(to_line(attempt_object(attempt)))
    assert found == {
        "event": "attempt",
        "segment": 1,
        "index": 2,
        "text": "a\nb",
        "n_tokens": 4,
        "outcome": "rejected",
        "reward": 0.5,
        "threshold": None,
        "probability": 0.0,
        "axes": {"harmless": 0.5},
        "passed": False,
        "end": "boundary",
    }


def test_what_is_not_a_number_is_never_written() -> None:
    with pytest.raises(ValueError):
        to_line({"x": math.nan})


def test_versions_name_this_package() -> None:
    assert {"python", "stars-local"} <= set(versions())
