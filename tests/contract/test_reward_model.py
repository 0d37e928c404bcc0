"""What every reward model must do, whatever it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from stars_local.core.doubles import TableReward
from stars_local.core.errors import RewardValueError
from stars_local.core.ports import RewardModel
from stars_local.core.records import Message, Prompt
from stars_local.reward.combine import CombinedReward, Gate, Term
from stars_local.reward.onnx_model import OnnxRewardModel
from tests.support.tiny_reward import write_tiny_reward

PROMPTS = (
    Prompt("one", (Message("user", "kill ?"),)),
    Prompt("two", (Message("system", "help"), Message("user", "yes"), Message("assistant", "no"),
                   Message("user", "sure ?"))),
    Prompt("raw", text="human : sorry"),
)  # fmt: skip
RESPONSES = ("", "yes", "sorry no", "[SEP] sure", "no " * 40, "日本 🎸 yes")
ITEMS = [(prompt, response) for prompt in PROMPTS for response in RESPONSES]
TOLERANCE = 1e-4


def _table(folder: Path) -> RewardModel:
    return TableReward({"yes": 1.0, "sorry no": -2.0})


def _one_by_one(folder: Path) -> RewardModel:
    return TableReward(lambda text: float(len(text)), batch_invariant=False)


def _onnx(folder: Path) -> RewardModel:
    return OnnxRewardModel(folder, provider="cpu", threads=1, trusted=True)


def _onnx_one_by_one(folder: Path) -> RewardModel:
    model = OnnxRewardModel(folder, provider="cpu", threads=1, trusted=True)
    model.forbid_batches()
    return model


def _combined(folder: Path) -> RewardModel:
    models = {"onnx": _onnx(folder), "table": _table(folder)}
    terms = [Term("onnx", "helpful", 0.7), Term("table", "table", -0.3)]
    return CombinedReward(models, terms, [Gate("onnx", "harmless", 0.0)])


MAKERS = (_table, _one_by_one, _onnx, _onnx_one_by_one, _combined)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_reward(tmp_path_factory.mktemp("contract") / "tiny")


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__.strip("_"))
def model(request: pytest.FixtureRequest, folder: Path) -> RewardModel:
    make: Callable[[Path], RewardModel] = request.param
    return make(folder)


def values(model: RewardModel, items: list[tuple[Prompt, str]]) -> list[float]:
    return [reward.value for reward in model.score(items).rewards]


def test_one_finite_reward_an_item_in_order(model: RewardModel) -> None:
    rewards = model.score(ITEMS).rewards
    assert len(rewards) == len(ITEMS)
    assert all(math.isfinite(reward.value) for reward in rewards)
    alone = [values(model, [item])[0] for item in ITEMS]
    assert [reward.value for reward in rewards] == pytest.approx(alone, abs=TOLERANCE)


def test_order_and_neighbours_do_not_matter(model: RewardModel) -> None:
    there = values(model, ITEMS)
    back = values(model, ITEMS[::-1])[::-1]
    assert back == pytest.approx(there, abs=TOLERANCE)
    doubled = values(model, [item for item in ITEMS for _ in range(2)])
    assert doubled[::2] == pytest.approx(there, abs=TOLERANCE)
    assert doubled[1::2] == pytest.approx(there, abs=TOLERANCE)


def test_scoring_again_gives_the_same(model: RewardModel) -> None:
    assert values(model, ITEMS) == values(model, ITEMS)


def test_the_same_conversation_scores_the_same_whatever_its_id(model: RewardModel) -> None:
    prompt = PROMPTS[0]
    renamed = Prompt("another", prompt.messages)
    assert values(model, [(prompt, "yes")]) == values(model, [(renamed, "yes")])


def test_token_ids_of_messages_play_no_part(model: RewardModel) -> None:
    turns = (Message("user", "help"), Message("assistant", "no"), Message("user", "sure"))
    sampled = (turns[0], Message("assistant", "no", (4, 5, 6)), turns[2])
    assert values(model, [(Prompt("a", turns), "yes")]) == values(
        model, [(Prompt("a", sampled), "yes")]
    )


def test_responses_are_told_apart(model: RewardModel) -> None:
    assert len(set(values(model, [(PROMPTS[0], text) for text in ("yes", "sorry no")]))) == 2


def test_costs_are_counted(model: RewardModel) -> None:
    none = model.score([])
    assert (none.rewards, none.n_batches, none.n_tokens) == ((), 0, ())
    scores = model.score(ITEMS)
    assert scores.n_batches >= 1
    assert len(scores.n_tokens) == len(ITEMS) and sum(scores.n_tokens) > 0
    each = [model.score([item]).n_tokens for item in ITEMS]
    assert sum(each, ()) == scores.n_tokens, "what one text costs is nothing to its neighbours"
    if not model.batch_invariant:
        assert scores.n_batches == len(ITEMS)


def test_every_axis_of_the_identity_is_in_every_reward(model: RewardModel) -> None:
    info = model.info
    assert info.name
    assert len(info.sha256) == 64
    assert info.max_tokens > 0
    for reward in model.score(ITEMS[:3]).rewards:
        assert set(reward.axes) == set(info.axes)


def test_a_value_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    folder = write_tiny_reward(tmp_path / "nan", variant="nan")
    for model in (_onnx(folder), CombinedReward({None: _onnx(folder)}, [Term(None, "helpful", 1)])):
        with pytest.raises(RewardValueError):
            model.score(ITEMS[:2])
