"""What `eval` and `sweep` can know to be wrong is said before anything is drawn or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stars_local import arms
from stars_local.cli.app import app
from tests.cli.test_eval import run
from tests.cli.test_generate import language, use
from tests.support.tiny_reward import write_tiny_reward


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, language())
    monkeypatch.setattr(arms, "clear", lambda models: pytest.fail("it began to draw"))


@pytest.fixture(name="prompts")
def _prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\n")
    return path


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--margin", "nan"], "nan is no margin"),
        (["--margin", "inf"], "inf is no margin"),
        (["--method", "best-of-n:n=2,n=3"], "n is given twice"),
        (["--sample-seed", "1"], "give --limit"),
        (["--method", "cards:max_segment_tokens=2"], "give at least 4"),
        (["--export-pairs", "/nowhere/at/all.jsonl"], "no folder /nowhere/at"),
        (["--export-pairs", "."], "is a folder"),
        (["--judge", "reward:/nowhere"], "no reward model"),
        (["--judge", "llm:/nowhere.gguf"], "no file /nowhere.gguf"),
        (["--max-new-tokens", "5000"], "model was trained for"),
    ],
)
def test_nothing_is_written_for_what_is_wrong(
    prompts: Path, tmp_path: Path, args: list[str], words: str
) -> None:
    result = run("eval", prompts, tmp_path / "run", *args)
    assert result.exit_code == 2, result.stderr
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


def test_second_turns_that_cannot_be_drawn_are_found_before_the_first(tmp_path: Path) -> None:
    prompts = tmp_path / "mt.jsonl"
    prompts.write_text('{"question_id": 1, "turns": ["one", "' + "word " * 4080 + '"]}\n')
    result = run("eval", prompts, tmp_path / "run", "--turns", "2")
    assert result.exit_code == 2 and "longest answer before it" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_folder_for_a_run(prompts: Path) -> None:
    before = prompts.read_bytes()
    result = run("eval", prompts, prompts)
    assert result.exit_code == 2 and "is a file: give --out a folder" in result.stderr
    assert prompts.read_bytes() == before


def test_one_judge_under_two_names_is_one_too_many(prompts: Path, tmp_path: Path) -> None:
    folder = write_tiny_reward(tmp_path / "rm")
    both = [f"reward:{folder}", f"reward:{folder}/"]
    result = run("eval", prompts, tmp_path / "run", "--judge", both[0], "--judge", both[1])
    assert result.exit_code == 2 and "is a judge already" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [["merge", "out", "shard"], ["judge", "run", "--out", "out"]])
def test_margins_of_finished_runs_are_checked_too(
    tmp_path: Path, command: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["eval", *command, "--margin", "nan"])
    assert result.exit_code == 2 and "nan is no margin" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []
