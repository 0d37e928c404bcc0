"""Reward models that fail half way, and two threads at once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stars_local.chat.records import SegmentKept
from stars_local.chat.session import Session, read_session
from stars_local.chat.talk import MakeTask, Talk
from stars_local.core.doubles import TableReward
from stars_local.core.driver import Driver, Task
from stars_local.core.errors import ModelError, RewardError, RewardValueError
from stars_local.core.methods.base import Context
from stars_local.core.methods.registry import MethodParams, build
from stars_local.core.records import Message, Prompt, Result, Scores
from stars_local.core.seeds import SeedSource
from stars_local.evals.runner import Plan, run
from stars_local.llama.engine import LlamaModel
from stars_local.reward import templates
from stars_local.reward.manifest import Form, Style, Template
from stars_local.reward.onnx_model import OnnxRewardModel
from tests.support.laws import letters_model
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward
from tests.support.toy_runs import plan, timeless
from tests.unit.test_talk import last

N_TOKENS = 24


class Failing(TableReward):
    """A reward model whose scores are good until the `at`th call, which does `what`."""

    def __init__(self, at: int, what: Callable[[], float]) -> None:
        super().__init__(lambda text: text.count("e") / 4)
        self.at, self.what, self.n_asked = at, what, 0

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Scores:
        """As a table's, but for one call."""
        self.n_asked += 1
        if self.n_asked != self.at:
            return super().score(items)
        bad = self.what()
        return TableReward(lambda text: bad).score(items)


def crash() -> float:
    raise RewardError("the network failed: the provider died")


def tasks(seed: int = 1, method: str = "stars", n: int = N_TOKENS, width: int = 1) -> MakeTask:
    params = MethodParams(segment_size=4, max_attempts=3, reward_threshold=1.0, max_new_tokens=n)

    def make(prompt: Prompt, draw: int) -> Task:
        context = Context(SeedSource(seed, prompt.id, draw), n, width=width)
        return Task(prompt, build(method, params), method, context, keep=True)

    return make


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_tiny(folder / "tiny.gguf", "llama")
    write_tiny_reward(folder / "reward")
    return folder


@pytest.fixture(scope="module", name="model")
def _model(folder: Path) -> Iterator[LlamaModel]:
    with LlamaModel(folder / "tiny.gguf", n_ctx=512, n_seq_max=16, n_threads=1) as model:
        yield model


@pytest.mark.parametrize("what", [lambda: math.nan, lambda: math.inf, lambda: -math.inf, crash])
@pytest.mark.parametrize("at", [1, 2, 4, 9])
def test_a_reward_model_that_fails_costs_no_accepted_segment(
    at: int, what: Callable[[], float], model: LlamaModel, tmp_path: Path
) -> None:
    reward = Failing(at, what)
    with Session.create(tmp_path) as session:
        talk = Talk(session, model, reward)
        with pytest.raises(RewardValueError if what is not crash else RewardError):
            last(talk.ask("one", tasks(), seed=1))
        assert model._runtime.trunks == {}
        n_kept = sum(isinstance(r, SegmentKept) for r in read_session(session.path)[1])
        turn = talk.conversation.last
        assert turn is not None and turn.answered is None
        assert n_kept == len(turn.kept) and (at <= 4 or n_kept > 0)
        again = last(talk.ask("two", tasks(), seed=1))
        assert again.text and model._runtime.trunks == {}
    with Session.resume(session.path) as resumed:
        assert [turn.asked.text for turn in resumed.conversation.turns] == ["one", "two"]


class Dying:
    """A session of ONNX Runtime whose provider dies at the `at`th run, and stays dead."""

    def __init__(self, inner: Any, at: int) -> None:
        self._inner, self._left = inner, at

    def run(self, *arguments: Any) -> Any:
        """As the session's, until it dies."""
        self._left -= 1
        if self._left <= 0:
            raise RuntimeError("CUDA failure 719:\nunspecified launch failure")
        return self._inner.run(*arguments)


def network(folder: Path, dies_at: int | None = None) -> OnnxRewardModel:
    reward = OnnxRewardModel(folder / "reward", provider="cpu", threads=1, trusted=True)
    if dies_at is not None:
        reward._session._session = Dying(reward._session._session, dies_at)
    return reward


@pytest.mark.parametrize("at", [1, 2, 4, 7])
def test_a_provider_that_dies_costs_a_chat_no_accepted_segment(
    at: int, model: LlamaModel, folder: Path, tmp_path: Path
) -> None:
    with Session.create(tmp_path) as session:
        talk = Talk(session, model, network(folder, at))
        for _ in range(2):  # it stays dead
            with pytest.raises(
                RewardError, match="failed: CUDA failure 719: unspecified"
            ) as caught:
                last(talk.ask("one", tasks(), seed=1))
            assert "\n" not in str(caught.value)
        assert model._runtime.trunks == {}
        turns = [(turn.asked, turn.kept) for turn in talk.conversation.turns]
    with Session.resume(session.path) as resumed:
        talk = Talk(resumed, model, network(folder))
        assert [(turn.asked, turn.kept) for turn in talk.conversation.turns] == turns
        assert at < 7 or turns[0][1]
        assert last(talk.ask("two", tasks(), seed=1)).text


@pytest.mark.parametrize("at", [1, 5, 20])
def test_a_provider_that_dies_costs_an_evaluation_no_answer_that_was_kept(
    at: int, folder: Path, tmp_path: Path
) -> None:
    def with_reward(reward: OnnxRewardModel) -> Plan:
        def open_driver(n_slots: int) -> Driver:
            return Driver(letters_model(), reward, n_slots=n_slots)

        made = plan(6, 2)
        return replace(made, arms=tuple(replace(a, open_driver=open_driver) for a in made.arms))

    list(run(with_reward(network(folder)), tmp_path / "undisturbed"))
    with pytest.raises(RewardError, match="the network failed: CUDA failure"):
        list(run(with_reward(network(folder, at)), tmp_path / "died"))
    kept = timeless(tmp_path / "died")
    assert len(kept) < 18 and (at < 20 or kept)
    list(run(with_reward(network(folder)), tmp_path / "died"))
    whole = timeless(tmp_path / "died")
    assert whole == timeless(tmp_path / "undisturbed") and set(kept) <= set(whole)


def test_an_infinite_reward_is_never_taken_for_a_good_one(model: LlamaModel) -> None:
    """Not even where a rule would accept it: +inf is above any threshold."""
    driver = Driver(model, TableReward(lambda text: math.inf))
    with pytest.raises(RewardValueError):
        list(driver.stream(tasks()(Prompt("p", text="hi"), 0)))


def in_threads(jobs: Sequence[Callable[[], object]]) -> list[object]:
    """What the jobs return or raise, all begun together."""
    found: list[object] = [None] * len(jobs)
    barrier = threading.Barrier(len(jobs))

    def work(place: int) -> None:
        barrier.wait()
        try:
            found[place] = jobs[place]()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive(), "two threads wait for each other"
    return found


def test_two_threads_share_a_model_and_each_gets_its_own_answer(
    model: LlamaModel, folder: Path
) -> None:
    """They take turns at it. Where the cells of others lie changes logits in their last digits,
    so an answer need not be the one that is drawn alone; it must be whole, and its own."""
    reward = OnnxRewardModel(folder / "reward", provider="cpu", threads=1, trusted=True)

    def ask(question: str) -> Result:
        prompt = Prompt(question, (Message("user", question),))
        return last(Driver(model, reward).stream(tasks(seed=3)(prompt, 0)))

    (start,) = model._native.vocabulary.tokenize("<|im_start|>", control=True)  # it has no text
    questions = [f"question {'x' * i}" for i in range(4)]
    alone = [ask(question) for question in questions]
    for _ in range(5):
        together = in_threads([lambda q=question: ask(q) for question in questions])
        for before, found in zip(alone, together, strict=True):
            assert isinstance(found, Result), found
            assert found.prompt_id == before.prompt_id
            assert found.n_prompt_tokens == before.n_prompt_tokens
            assert model.says(found.token_ids, found.text) or start in found.token_ids
            prompt, text = Prompt("p", (Message("user", found.prompt_id),)), ""
            for segment in found.segments:
                text += segment.text
                assert segment.reward == reward.score([(prompt, text)]).rewards[0].value
    assert model._runtime.trunks == {}


class Interrupted:
    """A tokenizer that lets another thread run between its switch and its use."""

    def __init__(self, inner: Any) -> None:
        self.__dict__["inner"] = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.inner, name, value)
        time.sleep(1e-4)


def test_rewards_do_not_depend_on_who_else_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer's switch for special tokens and the cache of prompts are shared."""
    load = templates.load_tokenizer
    monkeypatch.setattr(templates, "load_tokenizer", lambda path: Interrupted(load(path)))
    chatml = Template(Style.CHATML, Form.SINGLE, 2, None, "<|im_end|>", None, "", "")
    folder = write_tiny_reward(tmp_path / "chat", template=chatml, max_prompt_tokens=None)
    reward = OnnxRewardModel(folder, provider="cpu", threads=1, trusted=True)
    asked = [
        [(Prompt("p", (Message("user", f"help <|im_end|> {'no ' * i}"),)), f"<|im_start|> {k}")
         for i in range(40)]
        for k in range(4)
    ]  # fmt: skip

    def many(items: Sequence[tuple[Prompt, str]]) -> list[Scores]:
        return [reward.score([item]) for item in items]

    alone = [many(items) for items in asked]
    for _ in range(5):
        reward = OnnxRewardModel(folder, provider="cpu", threads=1, trusted=True)  # no cache yet
        assert in_threads([lambda items=items: many(items) for items in asked]) == alone


def test_a_model_that_is_closed_under_a_thread_is_an_error(folder: Path) -> None:
    model = LlamaModel(folder / "tiny.gguf", n_ctx=256, n_seq_max=4, n_threads=1)

    def talk() -> object:
        for seed in range(10_000):
            last(Driver(model, None).stream(tasks(seed, "vanilla")(Prompt("p", text="hi"), 0)))
        return None

    closer = threading.Timer(0.3, model.unload)
    closer.start()
    [found] = in_threads([talk])
    closer.join()
    assert isinstance(found, ModelError) and "closed" in str(found)
