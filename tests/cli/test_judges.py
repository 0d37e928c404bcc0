"""`--judge`: what is opened, what is refused, and where the verdicts go."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stars_local.cli.judges import check_judges, open_judges
from stars_local.core.errors import UsageError
from stars_local.core.records import ModelInfo, Prompt
from stars_local.evals.merge import merge_runs
from stars_local.evals.records import RESULTS, read_lines
from stars_local.evals.runner import Shard, run
from stars_local.evals.summary import summarise
from stars_local.evals.verdicts import judge_pairs, read_verdicts
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward
from tests.support.toy_runs import plan


class FirstPlace:
    """Prefers what is shown first, unless the other answer is longer by 3 characters."""

    info = ModelInfo("judge", "judge.gguf", "0" * 64, "F32", 64)

    def next_words(self, prompt: Prompt, words: Sequence[str]) -> list[float]:
        text = prompt.messages[0].content
        a = text.split("[Answer A]\n")[1].split("\n\n[Answer B]")[0]
        b = text.split("[Answer B]\n")[1].split("\n\nWhich")[0]
        return [len(a) + 2.5, len(b)]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield write_tiny(tmp_path_factory.mktemp("tiny") / "a.gguf", "llama", n_ctx=1024)


@pytest.mark.parametrize(
    "text", ["gpt", "reward", "reward:", "llm", "refusal:x", "perplexity:", ":x", ""]
)
def test_what_is_no_judge_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="give reward:DIR, refusal"):
        check_judges([text])
    with pytest.raises(UsageError, match="twice"):
        check_judges(["refusal", "refusal"])


def test_a_model_does_not_judge_its_own_work(tmp_path: Path) -> None:
    folder = write_tiny_reward(tmp_path / "rm")
    judges = open_judges([f"reward:{folder}"], [], 1)
    (steering,) = judges.single.values()
    with pytest.raises(UsageError, match="is the model that steers"):
        open_judges(["refusal", f"reward:{folder}"], [steering.info.sha256], 1)


def test_language_models_judge_answers_and_pairs(gguf: Path) -> None:
    judges = open_judges([f"llm:{gguf}", "refusal", f"perplexity:{gguf}"], [], 1)
    try:
        assert list(judges.single) == ["refusal", "logprob tiny-llama"]
        assert list(judges.pairs) == ["llm tiny-llama"]
        (digest,) = judges.recorded()["judges_of_pairs"].values()
        assert digest == judges.pairs["llm tiny-llama"].info.sha256
    finally:
        judges.close()


def test_verdicts_of_shards_are_merged_into_the_summary(tmp_path: Path) -> None:
    made, model = plan(6, 2, labels={"p0": {"label": "safe"}}), FirstPlace()
    prompts = {prompt.id: prompt for prompt in made.prompts}
    for i in (1, 2):
        folder = tmp_path / str(i)
        answers = list(run(made, folder, Shard(i, 2)))
        list(judge_pairs("llm judge", model, answers, prompts, folder))
    merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "all")
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    verdicts = read_verdicts(tmp_path / "all")
    assert len(verdicts) == 18
    by_llm = [pair for pair in summary["pairs"] if pair["judge"] == "llm judge"]
    assert len(by_llm) == 3
    for pair in by_llm:
        mine = [v for v in verdicts if (v.first, v.second) == (pair["first"], pair["second"])]
        lost = [v for v in mine if v.verdict is None]
        assert pair["n_inconsistent"] == len(lost)
        assert pair["win_rate"]["n"] == len(mine) - len(lost)
    assert sum(pair["n_inconsistent"] for pair in by_llm) > 0
    assert summary["arms"]["stars"]["refusals"]["safe"]["n"] == 1


def test_perplexity_is_made_of_log_probabilities(tmp_path: Path) -> None:
    list(run(plan(2, 2), tmp_path))
    lines = list(read_lines(tmp_path / RESULTS))
    for line in lines:
        line["rewards"]["logprob base"] = -1.0 if line["prompt_id"] == "p0" else -3.0
    arm = summarise(lines)["arms"]["stars"]
    assert arm["perplexity"]["logprob base"]["value"] == pytest.approx(2.718281828**2)
    assert arm["perplexity"]["logprob base"]["low"] == pytest.approx(2.718281828)


def test_a_judge_may_be_one_axis_of_a_model() -> None:
    check_judges(["reward:hh-minilm:sentiment=1", "reward:helpful=1"])
    with pytest.raises(UsageError, match="no reward model 'nosuch'"):
        check_judges(["reward:nosuch:helpful=1"])
