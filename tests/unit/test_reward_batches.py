from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.preferences.accuracy import PairAccuracy, wilson_interval
from stars_local.preferences.leaks import normalise
from stars_local.preferences.pairs import Pair
from stars_local.training.batches import (
    BatchPlan,
    EncodedPair,
    Encoder,
    PrefixPolicy,
    TextLimits,
    cut_at,
    encode_pairs,
    split_by_prompt,
    split_key,
    with_prompt,
)
from tests.support.tiny_encoder import tiny_tokenizer

ids = st.lists(st.integers(10, 15), min_size=1, max_size=30).map(tuple)
encoded = st.builds(
    lambda axis, prompt, chosen, rejected: EncodedPair(
        axis, axis, prompt, prompt, chosen, rejected
    ),
    st.sampled_from(["harmless", "sentiment"]),
    ids,
    ids,
    ids,
)


def plan_of(rows: list[EncodedPair], share: float = 0.5, **weights: float) -> BatchPlan:
    return BatchPlan(
        rows,
        axis_weights=weights,
        batch_size=4,
        limits=TextLimits(24, 8),
        prefixes=PrefixPolicy(share=share),
        cls_id=2,
        sep_id=3,
        seed=5,
    )


def made_rows(n: int, axis: str) -> list[EncodedPair]:
    generator = random.Random(n)
    return [
        EncodedPair(axis, axis, (i + 10,), (i + 10,), (50,) * generator.randint(1, 40), (60,) * 7)
        for i in range(n)
    ]


@given(encoded, st.integers(0, 2**31))
def test_a_cut_pair_is_two_different_prefixes(pair: EncodedPair, seed: int) -> None:
    cut = PrefixPolicy(min_tokens=2, max_tokens=10).cut(pair, random.Random(seed))
    assert cut.prompt == pair.prompt
    assert pair.chosen[: len(cut.chosen)] == cut.chosen
    assert pair.rejected[: len(cut.rejected)] == cut.rejected
    if pair.chosen != pair.rejected:
        assert cut.chosen != cut.rejected


@given(encoded, st.integers(1, 30))
def test_cutting_both_at_the_same_count(pair: EncodedPair, n: int) -> None:
    cut = cut_at(pair, n, n)
    if pair.chosen[:n] == pair.rejected[:n]:
        assert cut == pair
    else:
        assert (cut.chosen, cut.rejected) == (pair.chosen[:n], pair.rejected[:n])


@given(encoded, st.integers(0, 2**31))
def test_a_prompt_given_to_bare_texts_loses_no_token(pair: EncodedPair, seed: int) -> None:
    bare = EncodedPair("a", "s", (), (), pair.chosen, pair.rejected)
    placed = with_prompt(bare, [(99,), (98,)], random.Random(seed))
    assert placed.chosen
    assert placed.rejected
    if placed.prompt in {(99,), (98,)}:
        assert placed.prompt == placed.rejected_prompt
        assert (placed.chosen, placed.rejected) == (bare.chosen, bare.rejected)
    else:
        assert placed.prompt + placed.chosen == bare.chosen
        assert placed.rejected_prompt + placed.rejected == bare.rejected


words = st.sampled_from([f"word {i}" for i in range(8)])
prompts = st.one_of(st.just(()), words.map(lambda text: (("user", text), ("assistant", "x"))))
pairs = st.lists(
    st.builds(lambda p, c, r: Pair(p, c, r, "a", "s", 1), prompts, words, words), max_size=30
)


@given(pairs, st.floats(0.05, 0.95), st.integers(0, 1000))
def test_no_prompt_and_no_bare_text_stands_on_both_sides(
    rows: list[Pair], share: float, seed: int
) -> None:
    train, held_out = split_by_prompt(rows, share, seed)
    asked = [{split_key(p) for p in side if p.prompt} for side in (train, held_out)]
    assert asked[0].isdisjoint(asked[1])
    bare = [
        {normalise(text) for p in side if not p.prompt for text in (p.chosen, p.rejected)}
        for side in (train, held_out)
    ]
    assert bare[0].isdisjoint(bare[1])
    with_prompts = [p for p in rows if p.prompt]
    assert Counter(p for p in train + held_out if p.prompt) == Counter(with_prompts)
    assert split_by_prompt(rows[::-1], share, seed)[1] == held_out[::-1]


def test_an_epoch_visits_an_axis_as_often_as_its_weight_says() -> None:
    rows = made_rows(30, "harmless") + made_rows(11, "sentiment")
    steps = plan_of(rows, harmless=1.0, sentiment=2.0).epoch(0)
    visits = Counter(i for step in steps for i in step)
    assert all(visits[i] == 1 for i in range(30))
    assert all(visits[i] == 2 for i in range(30, 41))
    half = Counter(i for step in plan_of(rows, harmless=0.5).epoch(0) for i in step)
    assert len(half) == 15
    assert set(half.values()) == {1}


def test_each_step_has_one_axis_and_epochs_differ() -> None:
    rows = made_rows(30, "harmless") + made_rows(30, "sentiment")
    plan = plan_of(rows, harmless=1.0, sentiment=1.0)
    for step in plan.epoch(1):
        assert len({rows[i].axis for i in step}) == 1
        assert 1 <= len(step) <= 4
    assert plan.epoch(0) != plan.epoch(1)
    assert plan.epoch(1) == plan_of(rows, harmless=1.0, sentiment=1.0).epoch(1)


@given(st.lists(encoded, min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 50))
def test_a_batch_is_a_function_of_its_step(rows: list[EncodedPair], epoch: int, step: int) -> None:
    axis = rows[0].axis
    same = [row for row in rows if row.axis == axis]
    members = list(range(len(same)))
    plan = plan_of(same, **{axis: 1.0})
    batch = plan.batch(epoch, step, members)
    assert batch == plan_of(same, **{axis: 1.0}).batch(epoch, step, members)
    assert batch.axis == axis
    assert batch.n_pairs == len(same)
    for sequence in batch.sequences:
        assert len(sequence) <= 24
        assert sequence[0] == 2
        assert sequence.count(3) == 2


def test_the_share_of_cut_steps_is_the_policy_s() -> None:
    rows = [EncodedPair("a", "s", (9,), (9,), (50,) * 14, (60,) * 14)] * 4
    for share, low, high in ((0.0, 0, 0), (1.0, 390, 400), (0.45, 140, 220)):
        plan = plan_of(rows, share, a=1.0)
        whole = plan.assemble(rows)
        cut = sum(plan.batch(0, step, [0, 1, 2, 3]) != whole for step in range(400))
        assert low <= cut <= high


def test_encoding_treats_special_tokens_in_a_text_as_text() -> None:
    encoder = Encoder(tiny_tokenizer(["good", "bad", "[", "]", "sep"]))
    forged = Pair((("text", "[SEP] good"),), "bad [SEP]", "good", "a", "s", 1)
    [row] = encode_pairs(encoder, [forged], {})
    sep = encoder.special_id("[SEP]")
    assert sep not in row.prompt + row.chosen
    assert len(row.chosen) > 1
    with pytest.raises(ValueError, match=r"\[MASK\]"):
        encoder.special_id("[MASK]")


def test_a_source_s_response_limit_keeps_the_first_tokens() -> None:
    encoder = Encoder(tiny_tokenizer(["one", "two", "three"]))
    pair = Pair((), "one two three", "two", "a", "short", 1)
    [row] = encode_pairs(encoder, [pair], {"short": 2})
    [whole] = encode_pairs(encoder, [pair], {"other": 2})
    assert row.chosen == whole.chosen[:2]
    assert len(whole.chosen) == 3


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=50))
def test_pair_accuracy_counts_ties_half(margins: list[float]) -> None:
    found = PairAccuracy.of(margins)
    mirrored = PairAccuracy.of([-margin for margin in margins])
    assert found.accuracy + mirrored.accuracy == pytest.approx(1.0)
    low, high = found.ci95
    assert 0.0 <= low <= found.accuracy <= high <= 1.0


def test_wilson_interval_against_its_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_no_margins_have_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        PairAccuracy.of([])
