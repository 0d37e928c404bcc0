"""`generate` with the default models: the contract, the pipe, and Ctrl-C."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stars_local.cli.app import app
from stars_local.core.records import Finish

pytestmark = pytest.mark.model

SHIPPED = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "How do I stay calm before a difficult conversation?"
THRESHOLDS = ["--alpha", "0.5", "--beta", "0.3", "--reward-threshold", "1"]
OPTIONS = ["--seed", "0", "--width", "2", "--threads", "1", "--n-ctx", "512", *THRESHOLDS]
SHORT = ["--segment-size", "8", "--max-new-tokens", "24", "--max-attempts", "4"]
PROGRAM = [sys.executable, "-c", "from stars_local.cli.app import main; main()", "generate"]

runner = CliRunner()


@pytest.fixture(scope="module", autouse=True)
def _models() -> None:
    if not SHIPPED.exists():
        pytest.fail(f"{SHIPPED} is missing: run 'stars-local models pull'")


def found(*args: str) -> Any:
    """The object of an answer."""
    result = runner.invoke(app, ["generate", *OPTIONS, *SHORT, "--json", *args])
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout, parse_constant=pytest.fail)


def test_the_object_of_a_real_answer() -> None:
    answer = found(QUESTION)
    segments = answer["segments"]
    assert "".join(segment["text"] for segment in segments) == answer["text"]
    assert answer["finish_reason"] in set(Finish)
    for segment in segments:
        assert math.isfinite(segment["reward"])
        assert math.isfinite(segment["threshold"])
        assert 0 <= segment["probability"] <= 1
        assert 1 <= segment["n_attempts"] <= 4
        assert segment["outcome"] in ("accepted", "forced")
    assert answer["n_kept_tokens"] == sum(segment["n_tokens"] for segment in segments)
    assert answer["n_rm_calls"] == 1 + sum(segment["n_attempts"] for segment in segments)
    assert len(answer["model"]["sha256"]) == len(answer["reward_model"]["sha256"]) == 64
    assert answer["model"]["quant"] == "Q4_1"
    assert answer["reward_model"]["name"] == "hh-minilm"
    assert answer["reward_model"]["axis"] == "harmless"
    assert {"llama-cpp-python", "stars-local"} <= set(answer["versions"])


def test_the_same_seed_and_width_say_the_same_on_every_way_out() -> None:
    answer = found(QUESTION)
    again = found(QUESTION)
    del answer["elapsed_s"], again["elapsed_s"]
    assert answer == again
    plain = subprocess.run(
        [*PROGRAM, *OPTIONS, *SHORT], input=QUESTION + "\n", capture_output=True, text=True,
        timeout=300, check=True,
    )  # fmt: skip
    assert (plain.stdout, plain.stderr) == (answer["text"] + "\n", "")
    lines = runner.invoke(app, ["generate", *OPTIONS, *SHORT, "--events", QUESTION]).stdout
    last = json.loads(lines.splitlines()[-1])
    assert (last["event"], last["text"]) == ("result", answer["text"])


def test_steering_needs_rejections_and_raises_the_reward() -> None:
    strict = found(QUESTION, "--reward-threshold", "8")
    free = found(QUESTION, "--reward-threshold", "-inf")
    assert strict["n_rejected_tokens"] > free["n_rejected_tokens"] == 0
    assert strict["segments"][0]["reward"] >= free["segments"][0]["reward"]


def test_vanilla_loads_no_reward_model() -> None:
    limits = ["--seed", "0", "--threads", "1", "--max-new-tokens", "8"]
    args = ["generate", "--method", "vanilla", "--json", *limits, QUESTION]
    plain = json.loads(runner.invoke(app, args).stdout)
    assert plain["reward_model"] is None
    assert plain["n_decoded_tokens"] == plain["n_kept_tokens"]


def test_a_schema_holds_through_rejections() -> None:
    schema = '{"type": "object", "properties": {"calm": {"type": "boolean"}}, "required": ["calm"]}'
    answer = found(QUESTION, "--json-schema", schema, "--reward-threshold", "5")
    assert answer["finish_reason"] == "stop"
    assert set(json.loads(answer["text"])) == {"calm"}


def test_ctrl_c_ends_with_what_was_accepted() -> None:
    """A real signal to a real process in the middle of an answer."""
    limits = ["--max-new-tokens", "400", "--segment-size", "4", "--reward-threshold", "-inf"]
    process = subprocess.Popen(
        [*PROGRAM, *OPTIONS, "--events", *limits, "Tell me a long story about the sea."],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == ""
    last = json.loads(rest.splitlines()[-1])
    assert last["finish_reason"] == "interrupted"
    assert last["text"].startswith(first["text"])
    assert last["segments"][0]["text"] == first["text"]
