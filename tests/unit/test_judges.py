"""Judges beside the reward models: verdicts need both orders, likelihoods are the model's own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.errors import ModelError
from stars_local.core.records import Finish, Message, ModelInfo, Prompt, Result
from stars_local.evals.judges import LogprobJudge, RefusalJudge, quality_judge
from stars_local.evals.records import answer_line
from stars_local.evals.summary import summarise
from stars_local.evals.verdicts import VERDICTS, compare, decide, judge_pairs, read_verdicts
from stars_local.llama.judging import NextWords, TextLikelihood
from stars_local.llama.logits import LogitsModel
from tests.support.tiny_gguf import write_tiny

PROMPT = Prompt("p", (Message("user", "hello"),))
INFO = ModelInfo("judge", "judge.gguf", "0" * 64, "F32", 64)


class Scripted:
    """A judge of pairs whose log odds for A come from a function of both answers' texts."""

    info = INFO

    def __init__(self, odds: Callable[[str, str], float]) -> None:
        self.odds, self.n_calls = odds, 0

    def next_words(self, prompt: Prompt, words: Sequence[str]) -> list[float]:
        self.n_calls += 1
        assert tuple(words) == ("A", "B")
        text = prompt.messages[0].content
        a = text.split("[Answer A]\n")[1].split("\n\n[Answer B]")[0]
        b = text.split("[Answer B]\n")[1].split("\n\nWhich")[0]
        return [self.odds(a, b), 0.0]

    def logprobs(self, prompt: Prompt, response: str) -> list[float]:
        return [-math.log(len(word)) for word in response.split()]


def longer(a: str, b: str) -> float:
    return float(len(a) - len(b))


def lines(*texts: str) -> list[dict[str, Any]]:
    return [{"prompt_id": "p", "arm": f"arm{i}", "text": text} for i, text in enumerate(texts)]


@given(st.text("ab", min_size=1, max_size=9), st.text("ab", min_size=1, max_size=9))
def test_swapping_the_answers_swaps_the_verdict(first: str, second: str) -> None:
    there = compare(Scripted(longer), PROMPT, first, second)
    back = compare(Scripted(longer), PROMPT, second, first)
    assert there == tuple(-odds for odds in reversed(back))
    expected = (len(first) > len(second)) - (len(first) < len(second))
    assert decide(there) == (expected if expected else None)


@given(st.floats(0.01, 5), st.floats(-5, 5))
def test_a_love_of_one_place_larger_than_the_difference_gives_no_verdict(
    bias: float, quality: float
) -> None:
    gap = max(-0.99, min(0.99, quality / 5)) * bias
    for sign in (1, -1):

        def odds(a: str, b: str, side: float = sign * bias) -> float:
            return side + (gap if a == "x" else -gap)

        assert decide(compare(Scripted(odds), PROMPT, "x", "y")) is None


def test_verdicts_are_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    model, answers = Scripted(longer), lines("a", "aaa", "aaa")
    found = list(judge_pairs("llm", model, answers, {"p": PROMPT}, tmp_path))
    assert [(v.first, v.second, v.verdict) for v in found] == [
        ("arm1", "arm0", 1),
        ("arm2", "arm0", 1),
        ("arm2", "arm1", 0),
    ]
    assert model.n_calls == 4, "answers that are alike are not shown to the judge"
    path = tmp_path / VERDICTS
    path.write_bytes(path.read_bytes()[:-40])
    assert len(read_verdicts(tmp_path)) == 2, "the line that was cut off is left out"
    assert list(judge_pairs("llm", model, answers, {"p": PROMPT}, tmp_path)) == found
    assert model.n_calls == 4
    answers[0]["text"] = "aaaaaa"
    again = list(judge_pairs("llm", model, answers, {"p": PROMPT}, tmp_path))
    assert [v.verdict for v in again] == [-1, -1, 0], "a verdict is of the texts it was given for"
    assert all(json.loads(raw) for raw in path.read_text().splitlines()[-2:])


def test_refusals_and_likelihoods_never_stand_for_quality() -> None:
    items = [(PROMPT, "I cannot help with that."), (PROMPT, "Sure, take two eggs.")]
    assert [r.value for r in RefusalJudge().score(items).rewards] == [1.0, 0.0]
    judge = LogprobJudge(Scripted(longer))
    scores = judge.score([(PROMPT, "aa aaaa"), (PROMPT, "")])
    assert scores.rewards[0].value == pytest.approx(-math.log(8) / 2)
    assert math.isnan(scores.rewards[1].value) and scores.n_tokens == (2, 0)
    names = ["steering", "refusal", judge.info.name]
    assert quality_judge(names) is None
    assert quality_judge([*names, "other"]) == "other"


def test_an_answer_that_ends_at_once_counts_for_no_perplexity() -> None:
    judge = LogprobJudge(Scripted(longer))
    name = judge.info.name
    said = {"quiet": ["", "aa aaaa"], "loud": ["aa aaaa", "aa aaaa"]}
    found = []
    for arm, texts in said.items():
        for n, text in enumerate(texts):
            value = judge.score([(PROMPT, text)]).rewards[0].value
            result = Result(
                prompt_id=f"p{n}",
                method=arm,
                text=text,
                finish_reason=Finish.STOP,
                segments=(),
                token_ids=(),
                n_prompt_tokens=1,
                n_reused_tokens=0,
                n_kept_tokens=1,
                n_rejected_tokens=0,
                n_spare_tokens=0,
                n_rm_calls=0,
                n_rm_batches=0,
                n_rm_tokens=0,
                elapsed_s=1.0,
                seed=0,
            )
            found.append(answer_line(arm, 0, result, {name: value}, []))
    assert [line["rewards"][name] is None for line in found] == [True, False, False, False]
    arms = summarise(found)["arms"]
    perplexities = [arm["perplexity"][name] for arm in arms.values()]
    assert [each["value"] for each in perplexities] == [pytest.approx(math.sqrt(8))] * 2
    assert [each["n"] for each in perplexities] == [1, 2]
    silent = summarise(found[:1])["arms"]["quiet"]["perplexity"][name]
    assert silent["value"] is None


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "a.gguf", "llama", n_ctx=1024)


@pytest.fixture(scope="module")
def likelihood(path: Path) -> Iterator[TextLikelihood]:
    model = TextLikelihood(path, n_threads=1)
    yield model
    model.unload()


@pytest.fixture(scope="module")
def words(path: Path) -> Iterator[NextWords]:
    model = NextWords(path, n_ctx=512, n_threads=1)
    yield model
    model.unload()


def test_the_next_word_is_as_likely_as_its_token_in_the_text(
    likelihood: TextLikelihood, words: NextWords
) -> None:
    a, b = words.next_words(PROMPT, ("A", "B"))
    for found, letter in ((a, "A"), (b, "B")):
        (bare,) = likelihood.logprobs(PROMPT, letter)
        assert found == pytest.approx(bare, abs=1e-4)
    with pytest.raises(ModelError, match="same token"):
        words.next_words(PROMPT, ("A", "A"))


def test_log_probabilities_chain(likelihood: TextLikelihood) -> None:
    whole = likelihood.logprobs(PROMPT, "hello in the tin")
    assert all(value < 0 for value in whole)
    start = likelihood.logprobs(PROMPT, "hello in")
    assert whole[: len(start)] == pytest.approx(start, abs=1e-4)
    assert likelihood.logprobs(PROMPT, "") == []
    # the text that a prompt forces counts as part of the response that is asked about
    forced = replace(PROMPT, prefill="hello")
    assert likelihood.logprobs(forced, "hello in the tin") == pytest.approx(whole, abs=1e-6)


def test_long_texts_are_read_in_windows(path: Path, likelihood: TextLikelihood) -> None:
    text = "x1" * 400
    found = likelihood.logprobs(PROMPT, text)
    with LogitsModel(path, window=512, n_threads=1) as model:
        ids = model.encode(replace(PROMPT, prefill=text))
        n = len(ids) - len(model.encode(PROMPT))
        rows = model.logits(ids[len(ids) - 200 : -1], 198).astype(np.float64)
    assert len(found) == n > 512
    assert found[-1] == pytest.approx(
        float(rows[0, ids[-1]] - np.logaddexp.reduce(rows[0])), abs=0.3
    ), "the context is cut, the token is the last"
