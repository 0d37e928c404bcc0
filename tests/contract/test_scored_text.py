"""What a reward model is given at the edges of segments, over a language model of byte tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stars_local.core.acceptance import CoinRule
from stars_local.core.doubles import TableReward
from stars_local.core.driver import Driver, Task
from stars_local.core.events import Event, Finished, Judged
from stars_local.core.methods import Context, Segmentation, StarsParams, stars
from stars_local.core.ports import RewardModel
from stars_local.core.records import End, Finish, Message, Prompt, Result, Sampling
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Threshold
from stars_local.llama.engine import LlamaModel
from stars_local.reward.onnx_model import OnnxRewardModel
from tests.support.language_models import tiny_path
from tests.support.tiny_reward import write_tiny_reward

ASK = Prompt("p", (Message("user", "Grüße?"),))
ACCENTS = 'root ::= "é€😀é€😀é€😀é€😀"'


@pytest.fixture(name="model", scope="module")
def _model() -> Iterator[LlamaModel]:
    with LlamaModel(tiny_path("llama"), n_ctx=512, n_threads=1, n_seq_max=16) as model:
        yield model


class Recording(TableReward):
    """Remembers what it is asked to score."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        super().__init__(self._note)

    def _note(self, text: str) -> float:
        self.seen.append(text)
        return float(len(text))


def answer(
    model: LlamaModel, reward: RewardModel, sampling: Sampling, size: int, n: int, width: int = 3
) -> tuple[list[Event], Result]:
    """STARS with a coin for the rule, so that about half of the attempts are rejected."""
    params = StarsParams(Threshold(0.0, 0.5, n), CoinRule(0.4), Segmentation(size), 4)
    context = Context(SeedSource(0, "p"), n, width=width)
    task = Task(ASK, lambda c: stars(c, params), "stars", context, sampling)
    events = list(Driver(model, reward).stream(task))
    last = events[-1]
    assert isinstance(last, Finished)
    return events, last.result


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_character_cut_by_a_segment_is_scored_once_it_is_whole(
    model: LlamaModel, size: int
) -> None:
    reward = Recording()
    _, result = answer(model, reward, Sampling(top_k=0, grammar=ACCENTS), size, 60)
    assert result.text == "é€😀" * 4
    assert result.finish_reason is Finish.STOP
    assert "".join(segment.text for segment in result.segments) == result.text
    assert all(result.text.startswith(text) for text in reward.seen)
    assert "\ufffd" not in "".join(reward.seen)
    if size == 1:  # most segments end inside a character, and add nothing yet
        assert "" in [segment.text for segment in result.segments]


def test_an_answer_that_ends_at_once_is_scored_as_the_empty_response(model: LlamaModel) -> None:
    reward = Recording()
    events, result = answer(model, reward, Sampling(top_k=0, grammar='root ::= ""'), 8, 20)
    assert (result.text, result.finish_reason) == ("", Finish.STOP)
    assert [segment.n_tokens for segment in result.segments] == [1]
    assert set(reward.seen) == {""}
    assert result.n_rm_calls == len(reward.seen) / 2 >= 2  # a table is asked twice for each
    judged = [event.attempt for event in events if isinstance(event, Judged)]
    assert {(attempt.text, attempt.end) for attempt in judged} == {("", End.EOG)}


def test_a_response_beyond_the_reward_models_limit_is_scored_by_its_end(
    model: LlamaModel, tmp_path: Path
) -> None:
    reward = OnnxRewardModel(write_tiny_reward(tmp_path / "r"), provider="cpu", trusted=True)
    words = 'root ::= ("yes no sorry sure help " | "kill human yes no sure "){20}'
    sampling = Sampling(top_k=0, grammar=words)
    _, result = answer(model, reward, sampling, 12, 400, width=2)
    assert len(result.text.split()) > reward.info.max_tokens
    last = result.segments[-1]
    assert last.reward is not None
    # the end of the response is what is left of it, and it alone
    row = reward.encode(ASK, result.text)
    assert len(row) == reward.info.max_tokens
    n_kept = _n_common_end(row[:-1], reward.encode(ASK, " ".join(result.text.split()[-12:]))[:-1])
    assert n_kept >= 12
    assert last.reward == pytest.approx(reward.run_batch([row])[0][0], abs=1e-6)


def _n_common_end(left: Sequence[int], right: Sequence[int]) -> int:
    n = 0
    for a, b in zip(reversed(left), reversed(right), strict=False):
        if a != b:
            break
        n += 1
    return n
