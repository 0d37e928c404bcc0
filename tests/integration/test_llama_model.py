"""The engine on a real file, as shipped and in other types made from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from stars_local.core.boundaries import Boundary
from stars_local.core.ports import Order
from stars_local.core.records import End, Message, Prompt, Sampling
from stars_local.llama.engine import LlamaModel
from stars_local.llama.grammar import schema_to_gbnf
from stars_local.llama.quantise import quantise
from stars_local.llama.rollback import Strategy
from tests.support.language_models import content, draws, propose

pytestmark = pytest.mark.model

SHIPPED = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PLAIN = Sampling(ignore_eog=True)
QUESTION = Prompt("whale", (Message("user", "Tell me a short story about a whale."),))
Load = Callable[..., LlamaModel]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The real model as any type, made once."""
    if not SHIPPED.exists():
        pytest.fail(f"{SHIPPED} is missing: run 'stars-local models pull'")
    folder = tmp_path_factory.mktemp("quants")

    def file(quant: str) -> Path:
        if quant == "Q4_1":
            return SHIPPED
        path = folder / f"{quant}.gguf"
        if not path.exists():
            quantise(SHIPPED if quant == "F16" else file("F16"), path, quant, n_threads=1)
        return path

    return file


@pytest.fixture
def load(files: Callable[[str], Path]) -> Iterator[Load]:
    """Loads a type with one thread; unloads what it loaded."""
    loaded: list[LlamaModel] = []

    def make(quant: str = "Q4_1", **options: object) -> LlamaModel:
        settings = {"n_ctx": 1024, "n_threads": 1, **options}
        loaded.append(LlamaModel(files(quant), **settings))  # type: ignore[arg-type]
        return loaded[-1]

    yield make
    for model in loaded:
        model.unload()


def test_the_shipped_file_says_what_it_is(load: Load) -> None:
    model = load()
    assert (model.info.quant, model.info.architecture, model.info.n_vocab) == (
        "Q4_1",
        "llama",
        49152,
    )
    assert model.strategy is Strategy.BRANCH
    assert "fresh prefill" in model.strategy_reason


@pytest.mark.parametrize("quant", ["Q4_1", "Q4_0", "F16"])
@pytest.mark.parametrize("strategy", ["branch", "snapshot"])
def test_propose_reject_propose_equals_propose(load: Load, quant: str, strategy: str) -> None:
    model = load(quant, strategy=strategy)
    trunk = model.open(QUESTION, PLAIN).trunk
    for segment in range(2):
        first = propose(model, trunk, *range(segment, segment + 4), boundary=10)
        model.reject(trunk, first)
        again = propose(model, trunk, *range(segment, segment + 4), boundary=10)
        assert content(again) == content(first)
        model.commit(trunk, again[2])


@pytest.mark.parametrize("strategy", ["branch", "snapshot"])
def test_logits_after_accepted_branches_equal_a_fresh_prefill(load: Load, strategy: str) -> None:
    """Within 0.1 on a span of 40: the caches hold F16, in another order of cells."""
    model = load("F16", strategy=strategy)
    trunk = model.open(QUESTION, PLAIN).trunk
    for segment in range(3):
        proposals = propose(model, trunk, *range(segment, segment + 4), boundary=12)
        model.commit(trunk, proposals[1])
    ours = model.next_logits(trunk)
    kept = Message("assistant", "", model.response_ids(trunk))
    ids = model.encode(QUESTION) + list(kept.token_ids or ())
    other = load("F16")
    fresh = other.open(QUESTION, PLAIN).trunk
    state = other._trunk(fresh)
    other._runtime.forget(state)
    state.token_ids, state.n_decoded, state.logits = ids, 0, None
    wanted = other.next_logits(fresh)
    assert float(np.ptp(wanted)) > 20
    np.testing.assert_allclose(ours, wanted, atol=0.1)


@pytest.mark.parametrize("quant", ["F16", "Q4_0"])
def test_a_draw_does_not_depend_on_what_neighbours_draw_that_go_on(load: Load, quant: str) -> None:
    """Only the shape of a batch and the places in the cache count; one that ends changes both."""

    def drawn(*seeds: int) -> list[object]:
        model = load(quant)
        trunk = model.open(QUESTION, PLAIN).trunk
        return content(propose(model, trunk, *seeds, boundary=12))

    mine, again = drawn(1, 2, 3, 4, 5, 6, 7, 8), drawn(1, 2, 3, 4, 15, 16, 17, 18)
    assert again[:4] == mine[:4]
    assert not any(each in mine for each in again[4:])


def test_logits_agree_with_those_of_the_high_level_library(
    load: Load, files: Callable[[str], Path]
) -> None:
    import llama_cpp

    model = load("F16")
    trunk = model.open(QUESTION, PLAIN).trunk
    ours = model.next_logits(trunk)
    other = llama_cpp.Llama(str(files("F16")), n_ctx=1024, n_threads=1, verbose=False)
    try:
        other.eval(model.encode(QUESTION))
        row = llama_cpp.llama_get_logits_ith(other.ctx, -1)
        theirs = np.ctypeslib.as_array(row, (model.info.n_vocab,)).copy()
    finally:
        other.close()
    np.testing.assert_allclose(ours, theirs, atol=0.1)


def test_a_conversation_prefills_only_what_is_new(load: Load) -> None:
    model = load()
    messages = list(QUESTION.messages)
    n_before = 0
    for turn in range(3):
        opened = model.open(Prompt("chat", tuple(messages)), Sampling())
        assert opened.n_reused_tokens == n_before
        assert opened.n_prompt_tokens - n_before < 60
        text, end = "", End.BOUNDARY
        while end is End.BOUNDARY and len(text) < 60:
            proposals = propose(model, opened.trunk, turn, turn + 1, boundary=12)
            model.commit(opened.trunk, proposals[0])
            text, end = proposals[0].extend(text), proposals[0].end
        ids = model.response_ids(opened.trunk)
        model.close(opened.trunk, keep=True)
        n_before = opened.n_prompt_tokens + len(ids) - 1
        messages += [Message("assistant", text, ids), Message("user", "Go on.")]


def test_a_json_schema_holds_through_rejections(load: Load) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    model = load()
    prompt = Prompt("json", (Message("user", "Describe a person called Ann as JSON."),))
    sampling = Sampling(temperature=0.7, grammar=schema_to_gbnf(json.dumps(schema)))
    trunk = model.open(prompt, sampling).trunk
    response, end = "", End.BOUNDARY
    for segment in range(20):
        losers = propose(model, trunk, segment, segment + 100, boundary=6)
        model.reject(trunk, losers[:1])
        model.commit(trunk, losers[1])
        response, end = losers[1].extend(response), losers[1].end
        if end is not End.BOUNDARY:
            break
    assert end is End.EOG
    assert set(json.loads(response)) == {"name", "age"}


def test_a_saved_state_is_good_in_a_new_context(load: Load) -> None:
    model = load()
    opened = model.open(QUESTION, PLAIN)
    wanted = propose(model, opened.trunk, 1, boundary=12)
    model.close(opened.trunk, keep=True)
    data = model.save_state()
    other = load()
    assert other.load_state(data) == opened.n_prompt_tokens
    again = other.open(QUESTION, PLAIN)
    assert again.n_reused_tokens == opened.n_prompt_tokens - 1
    (found,) = propose(other, again.trunk, 1, boundary=12)
    assert found.token_ids[:4] == wanted[0].token_ids[:4]


def test_several_prompts_advance_in_one_batch(load: Load) -> None:
    model = load("F16")
    prompts = [Prompt(str(n), (Message("user", f"Count to {n}."),)) for n in (3, 5, 9)]
    trunks = [model.open(prompt, PLAIN).trunk for prompt in prompts]
    for segment in range(2):
        orders = [Order(t, draws(segment, segment + 9), Boundary(8)) for t in trunks]
        for trunk, (winner, loser) in zip(trunks, model.propose(orders), strict=True):
            model.reject(trunk, [loser])
            model.commit(trunk, winner)
    assert [len(model.response_ids(trunk)) for trunk in trunks] == [16, 16, 16]
