"""`calibrate` over the doubles: what it writes, says and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stars_local import cohorts, compose
from stars_local.calibration.records import read_calibration
from stars_local.cli.app import app
from stars_local.core.doubles import EnumerableModel, TableReward
from stars_local.reward import check
from tests.support.laws import letters_model

runner = CliRunner()
SMALL = ["--segment-size", "6", "--max-new-tokens", "18", "--seed", "0", "--slots", "4"]


class Language(EnumerableModel):
    """The letters model as `compose` hands it out."""

    chat_template = None

    def unload(self) -> None:
        """Nothing to free."""


@pytest.fixture(autouse=True)
def doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = TableReward(lambda text: (text.count("a") - text.count("c")) / (len(text) + 2))

    def open_models(*_: Any, **__: Any) -> compose.Models:
        model = letters_model()
        model.__class__ = Language
        return compose.Models(model, reward)  # type: ignore[arg-type]

    monkeypatch.setattr(compose, "open_models", open_models)
    monkeypatch.setattr(cohorts, "longest_prompts", lambda settings, turns: (None,))


def prompt_file(folder: Path, name: str, n: int = 60) -> str:
    path = folder / f"{name}.jsonl"
    lines = (json.dumps({"id": f"{name}{i}", "prompt": f"{name} {i}"}) for i in range(n))
    path.write_text("\n".join(lines))
    return str(path)


def calibrate(folder: Path, *more: str) -> Any:
    files = ["--prompts", prompt_file(folder, "a"), "--check-prompts", prompt_file(folder, "b")]
    out = str(folder / "c.json")
    return runner.invoke(app, ["calibrate", *files, "--out", out, *SMALL, *more])


def test_it_writes_what_it_prints_and_meets_the_wanted_cost(tmp_path: Path) -> None:
    done = calibrate(tmp_path, "--attempts", "2", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    found = read_calibration(tmp_path / "c.json")
    assert json.loads(json.dumps(found.to_json())) == said
    assert found.predicted.attempts == pytest.approx(2.0, rel=0.1)
    assert found.checked is not None
    assert found.checked.n_prompts == 60
    assert 1.2 < found.checked.attempts < 3.2
    assert found.key.segment_size == 6


def test_words_fit_eighty_columns(tmp_path: Path) -> None:
    done = calibrate(tmp_path, "--attempts", "2", "--quick")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if not line.startswith("written to")]
    assert max(map(len, lines)) <= 80
    assert read_calibration(tmp_path / "c.json").checked is None


def test_what_a_check_says_of_a_reward_model_is_shown_and_never_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "check_before_run", lambda *_: ["evil\x1b]0;pwned\x07 is slow"])
    done = calibrate(tmp_path)
    assert done.exit_code == 0, done.output
    assert "stars-local: evil␛]0;pwned␇ is slow" in done.stderr
    assert "\x1b" not in done.output


def test_the_report_compares_partial_with_whole_rewards(tmp_path: Path) -> None:
    done = calibrate(tmp_path, "--attempts", "2", "--limit", "20", "--report", str(tmp_path / "r"))
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "r" / "partial.json").read_text())["rows"]
    assert [row["n_tokens"] for row in rows] == [6, 12]
    assert (tmp_path / "r" / "partial.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--attempts", "2", "--quantile", "0.5"], 2, "choose one aim"),
        (["--quantile", "1.5"], 2, "between 0 and 1"),
        (["--attempts", "99"], 1, "max_attempts, which is 20"),
        (["--check-prompts", "a.jsonl"], 1, "stand in both sets"),
        (["--prompts", "missing.jsonl"], 1, "missing.jsonl"),
        (["--attempts", "0.5"], 1, "lies between 1 and max_attempts"),
        (["--slots", "40", "--draws", "8"], 2, "lower --slots or --draws"),
        (["--out", "/proc/none/c.json"], 1, "cannot write"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = calibrate(tmp_path, "--limit", "20", *flags)
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) > 20
    assert "Traceback" not in done.output


def test_flags_that_a_calibration_does_not_look_at_are_named(tmp_path: Path) -> None:
    done = calibrate(tmp_path, "--attempts", "2", "--quick", "--beta", "0.3", "--alpha", "0.5")
    assert done.exit_code == 0, done.output
    assert "--beta has no effect on calibrate" in done.stderr
    assert "--alpha has no effect" not in done.stderr


def test_a_report_leaves_standard_output_to_the_object(tmp_path: Path) -> None:
    done = calibrate(tmp_path, "--attempts", "2", "--quick", "--json", "--report", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["quick"] is True
    assert "Spearman" in done.stderr
