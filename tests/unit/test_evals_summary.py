"""What a summary counts, and the words of a report that need no run."""

from __future__ import annotations

from typing import Any

import pytest

from stars_local.cli.eval import show_summary
from stars_local.evals.examples import question_text
from stars_local.evals.facts import run_table
from stars_local.evals.summary import summarise
from stars_local.evals.verdicts import Verdict


def line(arm: str, cohort: int = 0, prompt: str = "p", **more: Any) -> dict[str, Any]:
    """An answer without segments."""
    counts = dict.fromkeys(("decoded", "kept", "rejected", "spare", "rm"), 0)
    return {
        "arm": arm,
        "method": arm,
        "cohort": cohort,
        "prompt_id": prompt,
        "text": "a b",
        "rewards": {"steering": 1.0},
        "initial_reward": None,
        "finish_reason": "stop",
        "elapsed_s": 1.0,
        "segments": [],
        "attempts": [],
        "n_rm_calls": 0,
        "n_rm_batches": 0,
        **{f"n_{kind}_tokens": count for kind, count in counts.items()},
        **more,
    }


def test_a_pair_without_any_verdict_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line("vanilla"), line("stars")]
    nothing = [Verdict("llm x", "p", "stars", "vanilla", None, (1.0, -1.0), "t")]
    show_summary(summarise(lines, verdicts=nothing))
    assert "stars over vanilla by llm x: –" in capsys.readouterr().out


def test_an_arm_takes_as_long_as_the_slowest_of_each_cohort() -> None:
    took = [(0, 2.0), (0, 5.0), (1, 3.0), (1, 1.0)]
    lines = [line("a", k, f"p{i}", elapsed_s=s) for i, (k, s) in enumerate(took)]
    assert summarise(lines)["arms"]["a"]["wall_s"] == 8.0


def test_endings_that_nobody_looked_at_were_not_rejected() -> None:
    outcomes = ["rejected", "accepted", "spare", "spare"]
    attempts = [
        {"segment": 0, "index": i, "outcome": each, "end": "eog", "n_tokens": 1, "reward": 0.0}
        for i, each in enumerate(outcomes)
    ]
    assert summarise([line("a", attempts=attempts)])["arms"]["a"]["endings_rejected_share"] == 0.5


def test_every_answer_stands_in_one_bin_of_lengths() -> None:
    lines = [line("a", 0, f"p{i}", n_kept_tokens=i, rewards={"steering": i}) for i in range(1, 42)]
    lengths = summarise([*lines, line("b", n_kept_tokens=40)])["lengths"]
    assert [sum(each["n"] for each in lengths["arms"][arm]) for arm in "ab"] == [41, 1]
    for (low, high), found in zip(lengths["bins"], lengths["arms"]["a"], strict=True):
        assert found["rewards"]["steering"] == pytest.approx((low + high) / 2)
    assert len(lengths["bins"]) == 4


def test_earlier_messages_are_shortened_and_the_last_is_whole() -> None:
    said = [{"role": "user", "content": "x" * 500}, {"role": "assistant", "content": "Yes."}]
    text = question_text([*said, {"role": "user", "content": "z" * 500}])
    first, second, last = text.splitlines()
    assert first == f"user: {'x' * 160} …"
    assert second == "assistant: Yes."
    assert last == f"user: {'z' * 500}"
    assert question_text("as it is") == question_text([{"role": "user", "content": "as it is"}])


def test_the_run_says_what_it_was_made_of() -> None:
    described = {
        "prompt_ids": ["a", "b"],
        "width": 8,
        "arms": {
            "plain": {"segment_size": 32, "reward": "kind", "model_sha256": "5" * 64, "seed": 0},
            "short": {"segment_size": 15, "reward": "kind", "model_sha256": "5" * 64, "seed": 0},
        },
        "judges": {"steering": "6" * 64, "other": "7" * 64},
        "judges_of_pairs": {"llm x": "8" * 64},
        "prompts": "9" * 64,
        "steering": "harmless",
        "suffix": "!",
    }
    table = run_table({"run": {"run": described, "machine": {"processor": "x86"}}}, {"run": 3})
    assert {row[0]: row[1] for row in table} == {
        "run": "run",
        "answers": "3 of 4: unfinished, whole cohorts only",
        "prompts": "2, file sha256 999999999999",
        "prompts end with": "!",
        "model": "sha256 555555555555",
        "steered by": "kind (harmless), sha256 666666666666",
        "judges": "other (sha256 777777777777), llm x of pairs (sha256 888888888888)",
        "prompts drawn together": "8",
        "segment size": "32; 15 (short)",
        "seed": "0",
        "machine: processor": "x86",
    }
