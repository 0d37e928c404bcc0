"""`eval`, `sweep`, `eval merge` and `report` over the doubles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stars_local import arms, compose
from stars_local.cli.app import app
from stars_local.core.records import Prompt
from stars_local.llama.speed import StepCosts
from tests.cli.test_generate import CALIBRATED, language, use

SHORT = ["--segment-size", "3", "--max-new-tokens", "9", "--seed", "0", "--cohort", "2"]


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, language())
    monkeypatch.setattr(arms, "clear", lambda models: None)
    monkeypatch.setattr(compose, "measured_steps", lambda *_, **__: StepCosts({1: 0.01, 2: 0.0125}))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"question {i}\n" for i in range(5)))
    return path


def run(command: str, prompts: Path, out: Path, *args: str) -> Any:
    given = ["--prompts", str(prompts), "--out", str(out), *SHORT, *CALIBRATED, *args]
    return CliRunner().invoke(app, [command, *given])


def answers(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_methods_are_compared_on_the_same_prompts(prompts: Path, tmp_path: Path) -> None:
    out, pairs = tmp_path / "run", tmp_path / "pairs.jsonl"
    more = ["--method", "vanilla", "--method", "best-of-n:n=4", "--method", "stars:max_attempts=3"]
    result = run("eval", prompts, out, *more, "--export-pairs", str(pairs))
    assert result.exit_code == 0, result.stderr
    assert "best-of-n:n=4 over vanilla by steering" in result.stdout
    found = answers(out)
    assert len(found) == 15
    assert {line["method"] for line in found} == {"vanilla", "best-of-n", "stars"}
    manifest = json.loads((out / "manifest.json").read_text())["run"]
    assert manifest["arms"]["best-of-n:n=4"]["n"] == 4
    assert manifest["arms"]["stars:max_attempts=3"]["max_attempts"] == 3
    assert all(json.loads(line)["chosen"] for line in pairs.read_text().splitlines())
    again = run("eval", prompts, out, *more)
    assert again.exit_code == 0
    assert again.stdout == result.stdout
    assert answers(out) == found


def test_the_cost_is_told_first_and_not_where_nothing_is_left(
    prompts: Path, tmp_path: Path
) -> None:
    first = run("eval", prompts, tmp_path / "run", "--method", "vanilla", "--method", "stars")
    head, vanilla, _, together, rate = first.stderr.splitlines()[:5]
    assert head.split()[:2] == ["to", "draw"]
    assert vanilla.split()[:3] == ["vanilla", "5", "45"]
    assert together.split()[:2] == ["together", "10"]
    assert rate == "time at 160 tokens/s: decode steps of width 2, without scoring"
    again = run("eval", prompts, tmp_path / "run", "--method", "vanilla", "--method", "stars")
    assert "tokens/s" not in again.stderr
    results = tmp_path / "run" / "results.jsonl"
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(lines[:-1]))
    rest = run("eval", prompts, tmp_path / "run", "--method", "vanilla", "--method", "stars")
    assert "cohorts of this run" in rest.stderr
    assert "together" not in rest.stderr


def test_a_suffix_ends_every_prompt(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    make_task = compose.make_task

    def noted(prompt: Prompt, *args: Any, **options: Any) -> Any:
        asked.append(prompt.messages[-1].content)
        return make_task(prompt, *args, **options)

    monkeypatch.setattr(compose, "make_task", noted)
    result = run("eval", prompts, tmp_path / "run", "--suffix", " !!", "--method", "vanilla")
    assert result.exit_code == 0, result.stderr
    assert sorted(asked) == [f"question {i} !!" for i in range(5)]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())["run"]
    assert manifest["suffix"] == " !!"
    assert all("!!" not in line["text"] for line in answers(tmp_path / "run"))


def test_a_folder_of_another_run_is_refused(prompts: Path, tmp_path: Path) -> None:
    assert run("eval", prompts, tmp_path / "run").exit_code == 0
    result = run("eval", prompts, tmp_path / "run", "--prefill", "Sure")
    assert result.exit_code == 2
    assert "holds another run: prefill was" in result.stderr


def test_a_prefill_begins_every_answer(prompts: Path, tmp_path: Path) -> None:
    assert run("eval", prompts, tmp_path / "run", "--prefill", "Sure, ").exit_code == 0
    assert all(line["text"].startswith("Sure, ") for line in answers(tmp_path / "run"))


def test_a_wide_margin_makes_every_answer_a_tie(prompts: Path, tmp_path: Path) -> None:
    assert run("eval", prompts, tmp_path / "run", "--margin", "1000").exit_code == 0
    (pair,) = json.loads((tmp_path / "run" / "summary.json").read_text())["pairs"]
    assert (pair["win"], pair["tie"], pair["loss"], pair["margin"]) == (0, 1, 0, 1000)
    assert pair["intervals"]["tie"] == [1, 1]


def test_a_sweep_varies_one_thing_at_a_time(prompts: Path, tmp_path: Path) -> None:
    result = run(
        "sweep", prompts, tmp_path / "run", "--vary", "max_attempts=1,4", "--vary", "alpha=0"
    )
    assert result.exit_code == 0, result.stderr
    assert {line["arm"] for line in answers(tmp_path / "run")} == {
        "stars",
        "stars:max_attempts=1",
        "stars:max_attempts=4",
        "stars:alpha=0",
    }


@pytest.mark.parametrize("n", [2, 7])
def test_shards_are_merged_and_reported(prompts: Path, tmp_path: Path, n: int) -> None:
    said = []
    for i in range(1, n + 1):
        done = run("eval", prompts, tmp_path / f"{i}", "--shard", f"{i}/{n}")
        assert done.exit_code == 0, done.stderr
        said.append("no cohort falls to this shard" in done.stderr)
    assert said[-1] == (n == 7)
    assert not said[0]
    folders = [str(tmp_path / name) for name in ("all", *map(str, range(1, n + 1)))]
    merged = CliRunner().invoke(app, ["eval", "merge", *folders])
    assert merged.exit_code == 0, merged.stderr
    assert len(answers(tmp_path / "all")) == 10
    made = CliRunner().invoke(app, ["report", folders[0]])
    assert made.exit_code == 0, made.stderr
    assert (tmp_path / "all" / "report.html").read_text().startswith("<!doctype html>")


def test_what_is_merged_is_what_one_process_sums_up(tmp_path: Path) -> None:
    prompts = tmp_path / "xs.csv"
    rows = "".join(f"{i},question {i},{('safe', 'unsafe')[i % 2]}\n" for i in range(5))
    prompts.write_text("id,prompt,label\n" + rows)
    for i in (1, 2):
        assert run("eval", prompts, tmp_path / f"{i}", "--shard", f"{i}/2").exit_code == 0
    assert run("eval", prompts, tmp_path / "whole", "--margin", "1").exit_code == 0
    folders = [str(tmp_path / name) for name in ("all", "1", "2")]
    merged = CliRunner().invoke(app, ["eval", "merge", *folders, "--margin", "1"])
    assert merged.exit_code == 0, merged.stderr
    one, other = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("all", "whole")
    )
    assert one["pairs"] == other["pairs"]
    assert one["pairs"][0]["margin"] == 1
    for arm in one["arms"]:
        assert set(one["arms"][arm]["refusals"]) == {"all", "safe", "unsafe"}
        assert one["arms"][arm]["refusals"] == other["arms"][arm]["refusals"]


def conversations(folder: Path) -> Path:
    prompts = folder / "mt.jsonl"
    rows = [{"question_id": i, "turns": [f"first {i}", f"then {i}"]} for i in range(5)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prompts


def test_second_turns_of_shards_are_merged(tmp_path: Path) -> None:
    prompts = conversations(tmp_path)
    for i in (1, 2):
        done = run("eval", prompts, tmp_path / f"{i}", "--shard", f"{i}/2", "--turns", "2")
        assert done.exit_code == 0, done.stderr
    folders = [str(tmp_path / name) for name in ("all", "1", "2")]
    merged = CliRunner().invoke(app, ["eval", "merge", *folders])
    assert merged.exit_code == 0, merged.stderr
    assert len(answers(tmp_path / "all" / "turn-2")) == 10
    assert (tmp_path / "all" / "turn-2" / "summary.json").is_file()
    shutil.rmtree(tmp_path / "2" / "turn-2")
    refused = CliRunner().invoke(app, ["eval", "merge", str(tmp_path / "other"), *folders[1:]])
    assert refused.exit_code == 2
    assert "finish that shard with --turns 2 first" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_a_second_turn_follows_each_arms_own_answer(tmp_path: Path) -> None:
    prompts = conversations(tmp_path)
    result = run("eval", prompts, tmp_path / "run", "--turns", "2")
    assert result.exit_code == 0, result.stderr
    assert "together" in result.stderr and " 20 " in result.stderr  # both turns of both arms
    first, second = answers(tmp_path / "run"), answers(tmp_path / "run" / "turn-2")
    assert len(first) == len(second) == 10
    assert {line["turn"] for line in first} == {1}
    assert {line["turn"] for line in second} == {2}
    again = run("eval", prompts, tmp_path / "run", "--turns", "2")
    assert again.exit_code == 0, again.stderr
    assert answers(tmp_path / "run" / "turn-2") == second


def test_turns_need_prompts_that_have_them(prompts: Path, tmp_path: Path) -> None:
    result = run("eval", prompts, tmp_path / "run", "--turns", "2")
    assert result.exit_code == 2
    assert "has no second turn" in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--method", "starz"], "did you mean 'stars'"),
        (["--method", "best-of-n:m=3"], "no parameter 'm'"),
        (["--method", "best-of-n:n=0"], "n in --method"),
        (["--method", "stars", "--method", "stars:segment_size=0"], "segment_size"),
        (["--shard", "3/2"], "give I/N"),
        (["--judge", "gpt"], "give reward:DIR"),
        (["--width", "200"], "lower --cohort"),
    ],
)
def test_bad_arguments_are_usage_errors(
    prompts: Path, tmp_path: Path, args: list[str], words: str
) -> None:
    result = run("eval", prompts, tmp_path / "run", *args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_arms_from_a_file_and_their_own_rewards(prompts: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "arms.toml", tmp_path / "run"
    file.write_text(
        "[[arm]]\nname = 'short'\nmethod = 'stars'\nmax-attempts = 2\nmodel = 'other.gguf'\n"
        "[[arm]]\nname = 'by another reward'\nmethod = 'best-of-n:n=2'\nreward = 'other'\n"
    )
    more = ["--arms", str(file), "--method", "vanilla", "--method", "stars:model=third.gguf"]
    result = run("eval", prompts, out, *more)
    assert result.exit_code == 0, result.stderr
    names = ["vanilla", "stars:model=third.gguf", "short", "by another reward"]
    manifest = json.loads((out / "manifest.json").read_text())["run"]
    assert list(manifest["arms"]) == names
    assert manifest["arms"]["short"]["max_attempts"] == 2
    assert manifest["arms"]["by another reward"]["reward"] == "other"
    assert list(manifest["judges"]) == ["steering", "steering other"]
    found = answers(out)
    assert len(found) == 20
    assert all(set(line["rewards"]) == {"steering", "steering other"} for line in found)
    assert run("eval", prompts, out, *more).exit_code == 0
    assert answers(out) == found
    made = CliRunner().invoke(app, ["report", str(out)])
    assert made.exit_code == 0, made.stderr
    assert "No independent judge took part" in (out / "report.md").read_text()


def test_an_arms_file_alone_adds_no_other_arms(prompts: Path, tmp_path: Path) -> None:
    file = tmp_path / "arms.toml"
    file.write_text("[[arm]]\nname = 'only'\nmethod = 'vanilla'\n")
    assert run("eval", prompts, tmp_path / "run", "--arms", str(file)).exit_code == 0
    assert {line["arm"] for line in answers(tmp_path / "run")} == {"only"}
    file.write_text("[[arm]]\nname = 'only'\nmethod = 'vanilla'\nmodle = 'x'\n")
    result = run("eval", prompts, tmp_path / "other", "--arms", str(file))
    assert result.exit_code == 2
    assert "the nearest is 'model'" in result.stderr
