"""`eval judge`: further judges for a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stars_local.cli.app import app
from tests.cli.test_eval import _doubles, answers, conversations, prompts, run
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward

__all__ = ["_doubles", "prompts"]


def judged(folder: Path, out: Path, *args: str) -> Any:
    given = [*args] or ["--judge", "refusal"]
    return CliRunner().invoke(app, ["eval", "judge", str(folder), "--out", str(out), *given])


def timeless(out: Path) -> list[dict[str, Any]]:
    rows = [{**line, "elapsed_s": 0} for line in answers(out)]
    return sorted(rows, key=lambda line: (line["arm"], line["prompt_id"]))


def untimed(found: Any) -> Any:
    if isinstance(found, dict):
        times = ("elapsed_s", "wall_s")
        return {key: untimed(each) for key, each in found.items() if not key.startswith(times)}
    return [untimed(each) for each in found] if isinstance(found, list) else found


def summary(out: Path) -> Any:
    return untimed(json.loads((out / "summary.json").read_text()))


def test_a_judge_that_comes_later_says_what_one_of_the_run_would_have_said(
    prompts: Path, tmp_path: Path
) -> None:
    reward = write_tiny_reward(tmp_path / "other")
    gguf = write_tiny(tmp_path / "judge.gguf", "llama", n_ctx=1024)
    judges = ["--judge", f"reward:{reward}", "--judge", "refusal", "--judge", f"llm:{gguf}"]
    attack = ["--prefill", "Sure", "--suffix", " now"]
    assert run("eval", prompts, tmp_path / "plain", *attack).exit_code == 0
    before = (tmp_path / "plain" / "results.jsonl").read_bytes()
    result = judged(tmp_path / "plain", tmp_path / "later", *judges)
    assert result.exit_code == 0, result.stderr
    assert run("eval", prompts, tmp_path / "whole", *attack, *judges).exit_code == 0
    later, whole = tmp_path / "later", tmp_path / "whole"
    assert timeless(later) == timeless(whole)
    assert summary(later) == summary(whole)
    manifests = [json.loads((out / "manifest.json").read_text()) for out in (later, whole)]
    assert manifests[0]["run"] == manifests[1]["run"]
    assert (tmp_path / "plain" / "results.jsonl").read_bytes() == before


def test_it_goes_on_where_it_was_stopped(prompts: Path, tmp_path: Path) -> None:
    assert run("eval", prompts, tmp_path / "run").exit_code == 0
    out = tmp_path / "out"
    assert judged(tmp_path / "run", out).exit_code == 0
    whole = (out / "results.jsonl").read_text()
    (out / "results.jsonl").write_text(whole[: len(whole) // 2])
    (out / "summary.json").unlink()
    again = judged(tmp_path / "run", out)
    assert again.exit_code == 0, again.stderr
    assert sorted((out / "results.jsonl").read_text().splitlines()) == sorted(whole.splitlines())
    assert (out / "summary.json").is_file()


def test_judges_that_had_a_part_already_are_refused(prompts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run("eval", prompts, folder, "--judge", "refusal").exit_code == 0
    twice = judged(folder, tmp_path / "out")
    assert twice.exit_code == 2 and "refusal is a judge already" in twice.stderr
    reward = write_tiny_reward(tmp_path / "rm")
    digest = json.loads((reward / "reward.json").read_text())["sha256"]
    for run_of in (
        {"judges": {"steering": "0", "steering other": digest}},
        {"judges": {"steering": "0"}, "steering_models": ["0", digest]},
    ):
        change(folder, **run_of)
        own = judged(folder, tmp_path / "out", "--judge", f"reward:{reward}")
        assert own.exit_code == 2 and "is the model that steers" in own.stderr
    none = CliRunner().invoke(app, ["eval", "judge", str(folder), "--out", str(tmp_path / "out")])
    assert none.exit_code == 2 and "give --judge" in none.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_whole_is_refused(prompts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run("eval", prompts, folder).exit_code == 0
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(lines[:-1]))
    result = judged(folder, tmp_path / "out")
    assert result.exit_code == 1
    assert "1 answers are missing, the first is" in result.stderr
    assert "finish the run first" in result.stderr


def test_second_turns_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = run("eval", conversations(tmp_path), folder, "--turns", "2")
    assert done.exit_code == 0, done.stderr
    result = judged(folder / "turn-2", tmp_path / "out")
    assert result.exit_code == 2 and "give the run of the first" in result.stderr


def test_a_run_that_changed_under_it_is_refused(prompts: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "run", tmp_path / "out"
    assert run("eval", prompts, folder).exit_code == 0
    assert judged(folder, out).exit_code == 0
    lines = answers(folder)
    lines[0]["text"] += "!"
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = judged(folder, out)
    assert result.exit_code == 2 and "give another --out" in result.stderr


def test_an_answer_that_stands_twice_counts_once(prompts: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "run", tmp_path / "out"
    assert run("eval", prompts, folder).exit_code == 0
    raw = (folder / "results.jsonl").read_text()
    stray = {**answers(folder)[0], "arm": "nobody's"}
    (folder / "results.jsonl").write_text(raw + raw + json.dumps(stray) + "\n")
    assert judged(folder, out).exit_code == 0
    assert len(answers(out)) == len(raw.splitlines())


def change(folder: Path, questions: Any = None, **run_of: Any) -> None:
    """Spoil the manifest of a run."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["questions"] = manifest["questions"] if questions is None else questions
    manifest["run"] |= run_of
    path.write_text(json.dumps(manifest))


HALF = "\ud800"


@pytest.mark.parametrize(
    "spoilt",
    [
        *({"questions": each} for each in (3, {}, {"a": 1}, {"a": [{"role": "user"}]}, {"a": [1]})),
        *({"prefill": each} for each in (None, 3, [])),
        *({"arms": each} for each in (None, 3, ["vanilla"])),
        *({"prompt_ids": each} for each in (None, 3, [3], ["away"])),
        *({"judges": each} for each in (None, [], {}, {"": "0"}, {" ": "0"}, {"steering": 3})),
        *({"judges_of_pairs": each} for each in (3, {"": "0"}, {"llm": None})),
        *({"steering_models": each} for each in (3, [3])),
        {"prompts": HALF},
        {"prompts": float("nan")},
    ],
)
def test_a_spoilt_manifest_is_an_error_of_its_own(
    spoilt: dict[str, Any], prompts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert run("eval", prompts, folder, "--method", "vanilla").exit_code == 0
    change(folder, **spoilt)
    result = judged(folder, tmp_path / "out")
    assert result.exit_code == 1, result.stderr
    assert "manifest.json: not the manifest of a run of this version" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["arm", "prompt_id", "cohort", "text", "rewards"])
@pytest.mark.parametrize("value", [None, 1.5])
def test_a_spoilt_answer_is_an_error_of_its_own(
    key: str, value: object, prompts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert run("eval", prompts, folder, "--method", "vanilla").exit_code == 0
    lines = answers(folder)
    lines[1][key] = value
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = judged(folder, tmp_path / "out")
    assert result.exit_code == 1 and "results.jsonl:2: not an answer" in result.stderr
