"""A run can be killed at any line, or inside one, and ends as if nothing had happened."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stars_local.core.doubles import TableReward
from stars_local.core.driver import Driver
from stars_local.core.errors import DataError, UsageError
from stars_local.core.records import Message, Prompt
from stars_local.evals.examples import question_text
from stars_local.evals.merge import merge_runs
from stars_local.evals.records import MANIFEST, RESULTS, first_difference, read_lines, read_manifest
from stars_local.evals.runner import Arm, Plan, Shard, parse_shard, preference_pairs, run
from tests.support.toy_runs import arm, plan, timeless


def undisturbed(folder: Path) -> list[str]:
    list(run(plan(), folder))
    return timeless(folder)


def test_every_arm_answers_every_prompt_once(tmp_path: Path) -> None:
    lines = list(run(plan(), tmp_path / "run"))
    assert len(lines) == 21
    assert {(line["arm"], line["prompt_id"]) for line in lines} == {
        (name, f"p{i}") for name in ("vanilla", "stars", "best-of-n") for i in range(7)
    }
    for line in lines:
        parts = line["n_kept_tokens"] + line["n_rejected_tokens"] + line["n_spare_tokens"]
        assert line["n_decoded_tokens"] == parts
        assert "steering" in line["rewards"]


@given(
    stops=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    torn=st.binary(max_size=40).filter(lambda b: b"\n" not in b),
)
@settings(max_examples=25, deadline=None)
def test_a_killed_run_ends_as_an_undisturbed_one(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int], torn: bytes
) -> None:
    root = tmp_path_factory.mktemp("runs")
    folder = root / "killed"
    for stop in stops:
        steps = run(plan(), folder)
        for _, _line in zip(range(stop), steps, strict=False):
            pass
        steps.close()
        if (folder / RESULTS).exists():
            with (folder / RESULTS).open("ab") as file:
                file.write(torn)  # a line that was cut while it was written
    list(run(plan(), folder))
    assert timeless(folder) == undisturbed(root / "whole")


def test_the_manifest_holds_what_was_asked_with_its_history(tmp_path: Path) -> None:
    talk = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))
    made = replace(plan(), prompts=(Prompt("a", messages=talk), Prompt("b", text="raw")))
    asked = made.manifest()["questions"]
    assert question_text(asked["a"]) == "user: one\nassistant: two\nuser: three"
    assert question_text(asked["b"]) == "raw"


def test_a_complete_run_draws_nothing_again(tmp_path: Path) -> None:
    list(run(plan(), tmp_path))
    before = (tmp_path / RESULTS).read_bytes()
    assert len(list(run(plan(), tmp_path))) == 21
    assert (tmp_path / RESULTS).read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [plan(width=2), plan(6), plan(prompts="x"), plan(arms=(arm("vanilla", seed=1),))],
)
def test_a_folder_belongs_to_one_run(tmp_path: Path, other: Plan) -> None:
    list(run(plan(), tmp_path))
    with pytest.raises(UsageError, match="holds another run"):
        list(run(other, tmp_path))


def test_what_differs_is_named_with_both_values(tmp_path: Path) -> None:
    for seed, words in ((1, "arms, vanilla, x was 1, now it is 2"), (2, "not there")):
        folder = tmp_path / str(seed)
        list(run(plan(arms=(replace(arm("vanilla"), params={"x": seed}),)), folder))
        other = replace(arm("vanilla"), params={"x": 2} if seed == 1 else {})
        with pytest.raises(UsageError, match=words):
            list(run(plan(arms=(other,)), folder))


def test_lists_differ_by_their_lengths_or_their_first_other_value() -> None:
    assert first_difference({"x": [1, 2]}, {"x": [1]}) == ("x", "2 values", "1 values")
    assert first_difference({"x": [1, 2, 3]}, {"x": [1, 5, 6]}) == ("x [1]", "2", "5")
    assert first_difference([{"a": 1}], [{"a": 1}]) is None


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_shards_merge_into_the_whole_run(tmp_path: Path, n: int) -> None:
    folders = [tmp_path / f"shard{i}" for i in range(1, n + 1)]
    for i, folder in enumerate(folders, start=1):
        list(run(plan(), folder, Shard(i, n)))
    summary = merge_runs([f for f in folders if (f / RESULTS).exists()], tmp_path / "all")
    assert timeless(tmp_path / "all") == undisturbed(tmp_path / "whole")
    assert {each["n"] for each in summary["arms"].values()} == {7}


def test_merging_needs_every_answer_and_one_run(tmp_path: Path) -> None:
    list(run(plan(), tmp_path / "a", Shard(1, 2)))
    with pytest.raises(DataError, match="answers are missing"):
        merge_runs([tmp_path / "a"], tmp_path / "all")
    list(run(plan(6), tmp_path / "b"))
    with pytest.raises(UsageError, match="not a shard"):
        merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "all")


@pytest.mark.parametrize("first", [Shard(1, 2), Shard()])
def test_a_shard_keeps_what_others_drew_in_its_folder(tmp_path: Path, first: Shard) -> None:
    n_before = len(list(run(plan(), tmp_path / "both", first)))
    lines = list(run(plan(), tmp_path / "both", Shard(2, 2)))
    assert len(lines) == 21 >= n_before
    assert timeless(tmp_path / "both") == undisturbed(tmp_path / "whole")


def test_a_folder_is_one_process_at_a_time(tmp_path: Path) -> None:
    running = run(plan(), tmp_path)
    next(running)
    with pytest.raises(UsageError, match="another process is at work"):
        list(run(plan(), tmp_path))
    running.close()
    assert len(list(run(plan(), tmp_path))) == 21


def test_the_time_of_judges_is_not_the_answers(tmp_path: Path) -> None:
    def slow(_text: str) -> float:
        time.sleep(0.1)
        return 0.0

    made = plan(8, 8, arms=(arm("stars"),))
    lines = list(run(replace(made, judges={"slow": TableReward(slow)}), tmp_path))
    assert len(lines) == 8
    assert max(line["elapsed_s"] for line in lines) < 0.1 * 5


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "-1/2", "1/0"])
def test_a_bad_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_shard(text)


@pytest.mark.parametrize("prefill", ["", "a"])
def test_pairs_prefer_what_was_kept_and_share_its_prefix(tmp_path: Path, prefill: str) -> None:
    made = plan(40)
    made = replace(made, prompts=tuple(replace(each, prefill=prefill) for each in made.prompts))
    lines = list(run(made, tmp_path))
    prompts = {prompt.id: prompt for prompt in made.prompts}
    pairs = list(preference_pairs(lines, prompts))
    assert len(pairs) > 20
    texts = {line["text"] for line in lines}
    for pair in pairs:
        assert pair["prefix"].startswith(prefill)
        assert pair["chosen_reward"] > pair["rejected_reward"]
        assert any(text.startswith(pair["prefix"] + pair["chosen"]) for text in texts)


def test_arms_of_one_model_run_together_and_answer_as_they_would_apart(tmp_path: Path) -> None:
    names = ("vanilla", "stars", "best-of-n")
    arms = tuple(replace(arm(name), group=name == "stars") for name in names)
    lines = list(run(plan(arms=arms), tmp_path / "run"))
    order = list(dict.fromkeys((line["arm"], line["cohort"]) for line in lines))
    first = [(name, k) for k in range(3) for name in ("vanilla", "best-of-n")]
    assert order == [*first, *(("stars", k) for k in range(3))]
    assert timeless(tmp_path / "run") == undisturbed(tmp_path / "whole")


def test_a_run_killed_between_models_opens_none_that_is_done(tmp_path: Path) -> None:
    opened: list[str] = []

    def noting(name: str) -> Arm:
        made = arm(name)

        def open_driver(n_slots: int) -> Driver:
            opened.append(name)
            return made.open_driver(n_slots)

        return replace(made, open_driver=open_driver, group=name)

    whole = plan(arms=(noting("vanilla"), noting("stars")))
    steps = run(whole, tmp_path)
    for _ in zip(range(9), steps, strict=False):  # vanilla, and inside the first cohort of stars
        pass
    steps.close()
    opened.clear()
    assert len(list(run(whole, tmp_path))) == 14
    assert opened == ["stars"] * 3


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "{", "[]", "\udcff"])
def test_files_of_a_run_that_are_damaged_are_named(tmp_path: Path, text: str) -> None:
    for name in (RESULTS, MANIFEST):
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=RESULTS):
        list(read_lines(tmp_path / RESULTS))
    with pytest.raises(DataError, match=MANIFEST):
        read_manifest(tmp_path)
