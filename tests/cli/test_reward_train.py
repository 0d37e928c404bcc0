from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from stars_local.cli.reward_train import parse_axis_weights, reward_train
from stars_local.core.errors import UsageError
from tests.support.tiny_encoder import write_tiny_encoder


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"ask {i}", "chosen": f"kind {i}", "rejected": f"cruel {i}"} for i in range(30)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    encoder = write_tiny_encoder(tmp_path / "encoder", ["ask", "kind", "cruel", "human", ":"])
    return [
        *("--data", f"harmless={pairs},licence=MIT,name=made"),
        *("--encoder", str(encoder)),
        *("--out", str(tmp_path / "out")),
        *("--max-tokens", "32", "--max-prompt-tokens", "12"),
        *("--epochs", "2", "--held-out", "0.3", "--device", "cpu"),
    ]


def run(arguments: list[str]) -> tuple[int, str, BaseException | None]:
    app = typer.Typer()
    app.command()(reward_train)
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.exception


def test_it_trains_and_prints_what_it_measured(arguments: list[str], tmp_path: Path) -> None:
    code, stdout, _ = run(arguments)
    assert code == 0
    assert stdout.startswith("made: held-out accuracy ")
    card = json.loads((tmp_path / "out" / "card.json").read_text(encoding="utf-8"))
    assert f"(best epoch {card['best_epoch']} of 2)" in stdout
    assert card["settings"]["limits"] == {"max_tokens": 32, "max_prompt_tokens": 12}


def test_a_finished_run_needs_resume_and_then_has_nothing_left_to_do(
    arguments: list[str], tmp_path: Path
) -> None:
    run(arguments)
    before = (tmp_path / "out" / "card.json").read_bytes()
    assert isinstance(run(arguments)[2], UsageError)
    code, _, _ = run([*arguments, "--resume"])
    assert code == 0
    assert (tmp_path / "out" / "card.json").read_bytes() == before


def test_wrong_devices_and_missing_options(arguments: list[str]) -> None:
    _, _, error = run([*arguments, "--device", "abacus"])
    assert isinstance(error, UsageError)
    assert "abacus" in str(error)
    assert run(["--out", "x"])[0] == 2


@pytest.mark.parametrize("text", ["helpful", "helpful=", "=1", "helpful=0", "helpful=nan", "a=1,b"])
def test_bad_axis_weights_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--axis-weights"):
        parse_axis_weights(text)


def test_axis_weights() -> None:
    assert parse_axis_weights("helpful=1.5,sentiment=0.5") == {"helpful": 1.5, "sentiment": 0.5}
    assert parse_axis_weights("") == {}
