"""What every implementation of the language-model port must do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stars_local.core.boundaries import Boundary, BoundaryKind, completes_sentence
from stars_local.core.errors import ModelError, OutOfCellsError, PromptTooLongError
from stars_local.core.ports import Draw, LanguageModel, Order
from stars_local.core.records import End, Prompt, Sampling
from tests.support.language_models import (
    IMPLEMENTATIONS,
    Implementation,
    content,
    draws,
    prompt,
    propose,
)

PLAIN = Sampling(top_k=0, ignore_eog=True)


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda made: made.name)
def made(request: pytest.FixtureRequest) -> Implementation:
    """Each implementation."""
    found = request.param
    assert isinstance(found, Implementation)
    return found


@pytest.fixture
def model(made: Implementation) -> Iterator[LanguageModel]:
    """A model of each implementation."""
    with made.model() as model:
        yield model


def test_a_prompt_is_encoded_as_it_is_opened_however_long_it_is(model: LanguageModel) -> None:
    for given in (prompt(), Prompt("p", text="Once", prefill=" upon")):
        opened = model.open(given, PLAIN)
        assert len(model.encode(given)) == opened.n_prompt_tokens
        model.close(opened.trunk)
    long = Prompt("p", text="word " * model.info.n_ctx)
    assert len(model.encode(long)) > model.info.n_ctx
    with pytest.raises(PromptTooLongError):
        model.open(long, PLAIN)


def test_a_round_gives_a_proposal_a_draw_in_order(model: LanguageModel) -> None:
    trunk = model.open(prompt(), PLAIN).trunk
    together = propose(model, trunk, 1, 2, 3)
    assert len(together) == 3
    assert all(p.n_tokens == 8 and p.end is End.BOUNDARY for p in together)
    assert len({p.token_ids for p in together}) == 3
    assert len({p.handle for p in together}) == 3
    model.reject(trunk, together)
    assert content(propose(model, trunk, 3, 1, 2)) == [content(together)[i] for i in (2, 0, 1)]


def test_propose_reject_propose_equals_propose(model: LanguageModel) -> None:
    trunk = model.open(prompt(), PLAIN).trunk
    for seed in range(3):
        first = propose(model, trunk, seed, seed + 10, seed + 20)
        model.reject(trunk, first)
        again = propose(model, trunk, seed, seed + 10, seed + 20)
        assert content(again) == content(first)
        model.commit(trunk, again[seed])


def test_rejected_proposals_leave_no_trace(made: Implementation) -> None:
    with made.model() as clean, made.model() as busy:
        responses = []
        for model, extra in ((clean, 0), (busy, 3)):
            trunk = model.open(prompt(), PLAIN).trunk
            response = ""
            for segment in range(4):
                for round_ in range(extra):
                    losers = propose(model, trunk, 1000 + round_, 2000 + round_)
                    model.reject(trunk, losers)
                winner, _ = propose(model, trunk, segment, segment + 50)
                model.commit(trunk, winner)
                response = winner.extend(response)
            responses.append(response)
        assert responses[0] == responses[1]


def test_rounds_live_side_by_side_until_one_is_committed(model: LanguageModel) -> None:
    trunk = model.open(prompt(), PLAIN).trunk
    (kept,) = propose(model, trunk, 1)
    for seed in range(2, 6):
        model.reject(trunk, propose(model, trunk, seed, seed + 100))
    others = propose(model, trunk, 7, 8)
    model.commit(trunk, kept)
    for other in others:
        with pytest.raises(ModelError, match="dropped"):
            model.commit(trunk, other)
    after = propose(model, trunk, 9)
    model.close(trunk)
    fresh = model.open(prompt(), PLAIN).trunk
    (same,) = propose(model, fresh, 1)
    assert content([same]) == content([kept])
    model.commit(fresh, same)
    assert content(propose(model, fresh, 9)) == content(after)


def test_dead_handles_are_refused(model: LanguageModel) -> None:
    trunk = model.open(prompt(), PLAIN).trunk
    one, two = propose(model, trunk, 1, 2)
    model.reject(trunk, [one])
    with pytest.raises(ModelError, match="dropped"):
        model.reject(trunk, [one])
    with pytest.raises(ModelError, match="dropped"):
        model.commit(trunk, one)
    model.commit(trunk, two)
    with pytest.raises(ModelError, match="dropped"):
        model.commit(trunk, two)
    model.close(trunk)
    with pytest.raises(ModelError, match="not open"):
        model.close(trunk)
    with pytest.raises(ModelError, match="not open"):
        model.commit(trunk, two)
    with pytest.raises(ModelError, match="not open"):
        propose(model, trunk, 1)


def test_orders_of_one_round_do_not_mix(model: LanguageModel) -> None:
    texts = ("One two", "A quite different beginning")
    alone = []
    for text in texts:
        trunk = model.open(prompt(text), PLAIN).trunk
        alone.append(content(propose(model, trunk, 4, 5)))
        model.close(trunk)
    trunks = [model.open(prompt(text), PLAIN).trunk for text in texts]
    replies = model.propose([Order(trunk, draws(4, 5), Boundary(8)) for trunk in trunks])
    assert [content(reply) for reply in replies] == alone
    model.commit(trunks[0], replies[0][1])
    (left,) = propose(model, trunks[1], 6)
    model.reject(trunks[1], [left])
    model.commit(trunks[1], replies[1][0])


def test_an_order_for_nothing_gets_nothing(model: LanguageModel) -> None:
    trunk = model.open(prompt(), PLAIN).trunk
    assert model.propose([Order(trunk, (), Boundary(8))]) == [()]
    assert model.propose([]) == []


def test_two_orders_may_name_one_prompt(model: LanguageModel) -> None:
    trunk = model.open(prompt(), PLAIN).trunk
    short, long = model.propose(
        [Order(trunk, draws(1), Boundary(3)), Order(trunk, draws(1), Boundary(9))]
    )
    assert long[0].token_ids[:3] == short[0].token_ids
    model.commit(trunk, long[0])


def test_seed_zero_is_a_seed(model: LanguageModel) -> None:
    trunk = model.open(prompt(), PLAIN).trunk
    first, second, other = propose(model, trunk, 0, 0, 1)
    assert first.token_ids == second.token_ids != other.token_ids


def test_a_draw_is_reseeded_where_it_says(model: LanguageModel) -> None:
    trunk = model.open(prompt(), PLAIN).trunk
    order = Order(trunk, (Draw((5, 6), 4), Draw((5,), 2**31), Draw((5, 7), 4)), Boundary(8))
    ((first, unbroken, other),) = model.propose([order])
    assert first.token_ids[:4] == unbroken.token_ids[:4] == other.token_ids[:4]
    assert first.token_ids[4:] != other.token_ids[4:]
    model.reject(trunk, [unbroken, other])
    ((start,),) = model.propose([Order(trunk, draws(5), Boundary(4))])
    model.commit(trunk, start)
    (rest,) = propose(model, trunk, 6, boundary=4)
    assert start.token_ids + rest.token_ids == first.token_ids


def test_sentences_end_at_sentence_ends(model: LanguageModel) -> None:
    trunk = model.open(prompt(), PLAIN).trunk
    rule = Boundary(60, BoundaryKind.SENTENCE, min_tokens=5)
    proposals = propose(model, trunk, *range(8), boundary=rule)
    assert all(5 <= p.n_tokens <= 60 for p in proposals)
    short = [p for p in proposals if p.n_tokens < 60]
    assert all(completes_sentence(p.text) for p in short)


def test_entropy_segments_go_on_where_they_ended(model: LanguageModel) -> None:
    """Whatever the threshold, the tokens are those of one long draw."""
    trunk = model.open(prompt(), PLAIN).trunk
    rule = Boundary(20, BoundaryKind.ENTROPY, min_tokens=2, entropy_threshold=0.0)
    (certain,) = propose(model, trunk, 3, boundary=rule)
    assert certain.n_tokens == 2
    rule = Boundary(20, BoundaryKind.ENTROPY, min_tokens=2, entropy_threshold=1e9)
    (never,) = propose(model, trunk, 3, boundary=rule)
    assert never.n_tokens == 20
    assert never.token_ids[:2] == certain.token_ids
    model.commit(trunk, certain)
    after = propose(model, trunk, 11)
    model.close(trunk)
    trunk = model.open(prompt(), PLAIN).trunk
    (start,) = propose(model, trunk, 3, boundary=2)
    model.commit(trunk, start)
    assert content(propose(model, trunk, 11)) == content(after)


def test_a_stop_string_may_span_segments(model: LanguageModel) -> None:
    trunk = model.open(prompt(), PLAIN).trunk
    texts = []
    for seed in (1, 2, 3):
        (segment,) = propose(model, trunk, seed, boundary=16)
        texts.append(segment.text)
        model.commit(trunk, segment)
    model.close(trunk)
    whole = "".join(texts)
    border = len(texts[0])
    stop = whole[border - 2 : border + 2]
    start = whole.index(stop)
    assert start <= border - 2
    trunk = model.open(prompt(), PLAIN, (stop, "never drawn at all")).trunk
    response = ""
    for seed in (1, 2, 3):
        (segment,) = propose(model, trunk, seed, boundary=16)
        response = segment.extend(response)
        model.commit(trunk, segment)
        if segment.end is End.STOP_STRING:
            break
    assert segment.end is End.STOP_STRING
    assert response == whole[:start]


def test_should_stop_halts_at_once_and_midway(model: LanguageModel) -> None:
    trunk = model.open(prompt(), PLAIN).trunk
    ((none,),) = model.propose([Order(trunk, draws(1), Boundary(8), lambda: True)])
    assert (none.end, none.token_ids, none.text) == (End.HALTED, (), "")
    calls = iter(range(100))
    order = Order(trunk, draws(1), Boundary(50), lambda: next(calls) >= 6)
    ((partial,),) = model.propose([order])
    assert partial.end is End.HALTED
    assert 0 < partial.n_tokens < 50
    (whole,) = propose(model, trunk, 1, boundary=50)
    assert whole.token_ids[: partial.n_tokens] == partial.token_ids
    model.commit(trunk, partial)
    (more,) = propose(model, trunk, 2)
    assert more.n_tokens == 8
    ((none,),) = model.propose([Order(trunk, draws(1), Boundary(8), lambda: True)])
    model.commit(trunk, none)
    assert content(propose(model, trunk, 2)) == content([more])


def test_the_context_ends_an_answer(made: Implementation) -> None:
    with made.model(n_ctx=256) as model:
        opened = model.open(prompt("x" * 200), PLAIN)
        n_left = 256 - opened.n_prompt_tokens
        (most,) = propose(model, opened.trunk, 1, boundary=n_left - 3)
        assert most.end is End.BOUNDARY
        model.commit(opened.trunk, most)
        (last,) = propose(model, opened.trunk, 2, boundary=50)
        assert (last.end, last.n_tokens) == (End.CONTEXT, 3)
        model.commit(opened.trunk, last)
        (nothing,) = propose(model, opened.trunk, 3)
        assert (nothing.end, nothing.n_tokens) == (End.CONTEXT, 0)
        model.commit(opened.trunk, nothing)


def test_a_prompt_that_fills_the_context_is_refused(made: Implementation) -> None:
    with made.model(n_ctx=256) as model:
        trunk = model.open(prompt(), PLAIN).trunk
        before = propose(model, trunk, 1)
        with pytest.raises(PromptTooLongError, match="n_ctx is 256"):
            model.open(prompt("x" * 300), PLAIN)
        model.reject(trunk, before)
        assert content(propose(model, trunk, 1)) == content(before)


def test_a_kept_prompt_is_reused(model: LanguageModel) -> None:
    first = model.open(prompt(), PLAIN)
    assert first.n_reused_tokens == 0
    (segment,) = propose(model, first.trunk, 1)
    model.commit(first.trunk, segment)
    after = propose(model, first.trunk, 2)
    model.close(first.trunk, keep=True)
    again = model.open(prompt("Once upon a time there was"), PLAIN)
    assert 0 <= again.n_reused_tokens < again.n_prompt_tokens
    model.close(again.trunk)
    fresh = model.open(prompt(), PLAIN)
    assert fresh.n_reused_tokens == 0
    (same,) = propose(model, fresh.trunk, 1)
    model.commit(fresh.trunk, same)
    assert content(propose(model, fresh.trunk, 2)) == content(after)


def test_short_of_sequences_a_round_is_narrower(made: Implementation) -> None:
    with made.model(n_seqs=5) as model:
        trunk = model.open(prompt(), PLAIN).trunk
        proposals = propose(model, trunk, *range(9))
        assert 1 <= len(proposals) <= 5
        wanted = content(proposals)
        model.reject(trunk, proposals)
        assert content(propose(model, trunk, *range(9))) == wanted
        model.close(trunk)
    with made.model(n_seqs=24) as model:
        trunk = model.open(prompt(), PLAIN).trunk
        firsts = content(propose(model, trunk, *range(len(wanted))))
        assert firsts == wanted


def test_without_a_sequence_for_each_order_nothing_is_drawn(made: Implementation) -> None:
    with made.model(n_seqs=4) as model:
        trunks = [model.open(prompt(f"{n} and"), PLAIN).trunk for n in range(3)]
        orders = [Order(trunk, draws(1), Boundary(8)) for trunk in trunks]
        try:
            replies = model.propose([*orders, *orders])
        except OutOfCellsError:
            (one,) = propose(model, trunks[0], 1)
            assert one.n_tokens == 8
        else:
            assert all(len(reply) == 1 for reply in replies)


def test_prefill_is_part_of_the_prompt(model: LanguageModel) -> None:
    whole = model.open(prompt("Once upon a time"), PLAIN)
    drawn = content(propose(model, whole.trunk, 1))
    model.close(whole.trunk)
    split = model.open(Prompt("p", text="Once upon", prefill=" a time"), PLAIN)
    assert split.n_prompt_tokens >= whole.n_prompt_tokens
    if split.n_prompt_tokens == whole.n_prompt_tokens:
        assert content(propose(model, split.trunk, 1)) == drawn


def test_sampling_that_ends_gives_the_end_token_and_no_text(model: LanguageModel) -> None:
    trunk = model.open(prompt(), Sampling(top_k=0)).trunk
    ended = None
    for seed in range(40):
        found = propose(model, trunk, *range(20 * seed, 20 * seed + 20), boundary=100)
        ended = next((p for p in found if p.end is End.EOG), None)
        if ended is not None:
            break
        model.reject(trunk, found)
    assert ended is not None
    (without_end,) = propose(model, trunk, 0, boundary=1)
    model.reject(trunk, [without_end])
    model.commit(trunk, ended)
    model.close(trunk, keep=True)
