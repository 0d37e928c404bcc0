"""Runs read together: what belongs together is matched, what only looks alike is told apart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.errors import DataError, UsageError
from stars_local.evals.joined import Joined, join, run_names
from stars_local.evals.records import RESULTS, read_lines, to_text
from stars_local.evals.report import write_report
from stars_local.evals.runner import run
from stars_local.evals.summary import summarise
from tests.support.toy_runs import arm, plan

pytestmark = pytest.mark.slow


def made(folder: Path, *, n_prompts: int = 3, **about: Any) -> Path:
    folder.mkdir(parents=True)
    list(run(plan(n_prompts, **about), folder))
    return folder


def ids(joined: Joined) -> set[str]:
    return {line["prompt_id"] for line in joined.lines}


@given(
    st.lists(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join),
        min_size=1,
        max_size=5,
        unique=True,
    )
)
def test_every_run_has_a_name_of_its_own_that_ends_its_path(paths: list[str]) -> None:
    names = run_names([Path("/") / path for path in paths])
    assert len(set(names)) == len(paths)
    for name, path in zip(names, paths, strict=True):
        assert f"/{path}".endswith(name)


def test_runs_in_folders_of_one_name_stay_two_runs(tmp_path: Path) -> None:
    runs = [made(tmp_path / "a" / "run"), made(tmp_path / "b" / "run")]
    joined = join(runs)
    assert set(joined.manifests) == {"a/run", "b/run"}
    assert {line["arm"] for line in joined.lines} == {
        f"{name} ({parent}/run)" for name in ("vanilla", "stars", "best-of-n") for parent in "ab"
    }
    with pytest.raises(UsageError, match="given twice"):
        join([runs[0], tmp_path / "a" / ".." / "a" / "run"])


@pytest.mark.parametrize("other", [{"prompts": "22"}, {"suffix": "!"}, {"prefill": "Sure"}])
def test_prompts_of_one_id_that_ask_something_else_are_not_matched(
    tmp_path: Path, other: dict[str, str]
) -> None:
    usual: dict[str, Any] = {"prompts": "11", "prefill": "", "suffix": ""}
    labels: dict[str, Any] = {"labels": {"p0": {"label": "safe"}}}
    same = [made(tmp_path / "a", **usual, **labels), made(tmp_path / "b", **usual)]
    third = made(tmp_path / "c", **{**usual, **other}, labels={"p0": {"label": "unsafe"}})
    assert ids(join(same)) == {"p0", "p1", "p2"}
    joined = join([*same, third])
    assert ids(joined) == {f"{run}: p{i}" for run in "ac" for i in range(3)}
    assert joined.labels == {"a: p0": {"label": "safe"}, "c: p0": {"label": "unsafe"}}
    assert joined.questions["c: p1"] == "prompt 1"
    pairs = summarise(joined.lines)["pairs"]
    across = {(pair["first"][-2], pair["second"][-2]) for pair in pairs}
    assert across == {(x, y) for x in "ab" for y in "ab"} | {("c", "c")}


def test_second_turns_are_not_the_first_turns_prompts(tmp_path: Path) -> None:
    first = made(tmp_path / "run")
    second = made(tmp_path / "run" / "turn-2")
    manifest = json.loads((second / "manifest.json").read_text())
    for params in manifest["run"]["arms"].values():
        params["turn"] = 2
    (second / "manifest.json").write_text(json.dumps(manifest))
    assert len(ids(join([first, second]))) == 6


def rejudge(folder: Path, judge: str, digest: str) -> None:
    lines = list(read_lines(folder / RESULTS))
    for line in lines:
        line["rewards"][judge] = 1.0
    (folder / RESULTS).write_text("".join(map(to_text, lines)))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["run"]["judges"][judge] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_judges_of_one_name_are_one_only_if_they_are_the_same_model(tmp_path: Path) -> None:
    runs = [made(tmp_path / name) for name in "ab"]
    for folder in runs:
        rejudge(folder, "kind", "11")
    assert {name for line in join(runs).lines for name in line["rewards"]} == {"steering", "kind"}
    rejudge(runs[1], "kind", "22")
    names = {name for line in join(runs).lines for name in line["rewards"]}
    assert names == {"steering", "kind (a)", "kind (b)"}


def test_runs_of_different_judges_make_one_report(tmp_path: Path) -> None:
    runs = [made(tmp_path / name) for name in "ab"]
    rejudge(runs[0], "one", "11")
    rejudge(runs[1], "two", "22")
    text = write_report(runs, tmp_path / "out")[1].read_text()
    assert "one is an independent judge." in text
    assert "It did not score vanilla (b), stars (b), best-of-n (b)." in text


def test_a_run_in_progress_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", n_prompts=5)
    whole = (folder / RESULTS).read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / RESULTS).write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    joined = join([folder])
    assert joined.n_answers == {"run": 13}  # the other answer of its cohort waits for it
    cohorts = Counter((line["arm"], line["cohort"]) for line in joined.lines)
    assert sorted(cohorts.values()) == [2, 2, 3, 3, 3]
    text = write_report([folder], tmp_path / "out")[1].read_text()
    assert "| answers | 13 of 15: unfinished, whole cohorts only |" in text
    assert "Not all answers are there" in text
    (folder / RESULTS).write_bytes(lines[0][:20] + b"\n" + b"".join(lines[1:]))
    with pytest.raises(DataError, match=":1: not a line of results"):
        join([folder])


def test_arms_and_prompts_stand_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", arms=(arm("stars"), arm("vanilla")))
    lines = list(read_lines(folder / RESULTS))
    (folder / RESULTS).write_text("".join(map(to_text, reversed(lines))))
    joined = join([folder])
    assert [(line["arm"], line["prompt_id"]) for line in joined.lines] == [
        (name, f"p{i}") for name in ("stars", "vanilla") for i in range(3)
    ]


def test_answers_that_the_manifest_does_not_know_are_an_error(tmp_path: Path) -> None:
    folder, larger = made(tmp_path / "run", n_prompts=2), made(tmp_path / "larger")
    (folder / RESULTS).write_bytes((larger / RESULTS).read_bytes())
    with pytest.raises(DataError, match="no answer of vanilla to p2"):
        join([folder])
