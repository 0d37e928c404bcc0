"""Weights, gates, and what a person may write for them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.doubles import TableReward
from stars_local.core.errors import UsageError
from stars_local.core.records import Prompt, Reward, RewardInfo, Scores
from stars_local.reward.combine import (
    CombinedReward,
    Gate,
    Term,
    digests_of,
    parse_gate,
    parse_reward,
)

PROMPT = Prompt("p", text="x")
numbers = st.floats(-5, 5, allow_nan=False)


class AxesTable:
    """A reward model of several axes: every response is the key of its axes."""

    batch_invariant = True

    def __init__(self, name: str, table: dict[str, dict[str, float]]) -> None:
        self._name, self._table = name, table

    @property
    def info(self) -> RewardInfo:
        axes = tuple(next(iter(self._table.values())))
        return RewardInfo(self._name, "1", self._name[0] * 64, axes[0], axes, 100)

    def score(self, items: list[tuple[Prompt, str]]) -> Scores:
        found = [self._table[text] for _, text in items]
        return Scores(tuple(Reward(next(iter(a.values())), a) for a in found), 1, (1,) * len(items))


def two_axes(harmless: float, helpful: float) -> AxesTable:
    return AxesTable("one", {"text": {"harmless": harmless, "helpful": helpful}})


@given(harmless=numbers, helpful=numbers, weights=st.tuples(numbers, numbers), bound=numbers)
def test_the_sum_and_the_gates_are_what_they_say(
    harmless: float, helpful: float, weights: tuple[float, float], bound: float
) -> None:
    terms = [Term(None, "harmless", weights[0]), Term(None, "helpful", weights[1])]
    model = CombinedReward(
        {None: two_axes(harmless, helpful)}, terms, [Gate(None, "harmless", bound)]
    )
    reward = model.score([(PROMPT, "text")]).rewards[0]
    assert reward.value == pytest.approx(weights[0] * harmless + weights[1] * helpful)
    assert reward.passed is (harmless >= bound)
    assert reward.axes == {"harmless": harmless, "helpful": helpful}


@given(value=numbers, bounds=st.lists(numbers, max_size=4))
def test_all_gates_must_pass_whatever_the_sum(value: float, bounds: list[float]) -> None:
    gates = [Gate(None, "harmless", bound) for bound in bounds]
    model = CombinedReward({None: two_axes(value, 9.0)}, [Term(None, "helpful", 1.0)], gates)
    reward = model.score([(PROMPT, "text")]).rewards[0]
    assert reward.passed is all(value >= bound for bound in bounds)
    assert reward.value == 9.0


def test_a_gated_axis_is_in_the_trace_even_if_it_weighs_nothing() -> None:
    model = CombinedReward(
        {None: two_axes(1.0, 2.0)}, [Term(None, "helpful", 1.0)], [Gate(None, "harmless", 0.0)]
    )
    assert model.score([(PROMPT, "text")]).rewards[0].axes == {"helpful": 2.0, "harmless": 1.0}
    assert model.info.axes == ("helpful", "harmless")
    assert model.info.axis == "helpful; harmless>=0"  # what is accepted is calibrated apart


def test_axes_of_two_models_are_told_apart() -> None:
    models = {"a": two_axes(1.0, 2.0), "b": AxesTable("other", {"text": {"harmless": 10.0}})}
    terms = [Term("a", "harmless", 0.5), Term("b", "harmless", 2.0)]
    model = CombinedReward(models, terms)
    reward = model.score([(PROMPT, "text")]).rewards[0]
    assert reward.value == 20.5
    assert reward.axes == {"one:harmless": 1.0, "other:harmless": 10.0}
    assert model.info.name == "one+other"
    assert model.info.sha256 not in {"o" * 64, "oo" * 64}
    assert len(model.info.sha256) == 64
    assert model.score([(PROMPT, "text")] * 3).n_batches == 2
    assert model.score([(PROMPT, "text")] * 3).n_tokens == (2, 2, 2)


def test_one_model_keeps_its_own_digest_and_batch_policy() -> None:
    table = TableReward({}, batch_invariant=False)
    model = CombinedReward({None: table}, [Term(None, "table", 2.0)])
    assert model.info.sha256 == table.info.sha256
    assert model.info.axis == "table=2"
    assert not model.batch_invariant


def test_an_unknown_axis_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'helpfull' \(did you mean 'helpful'\?\)"):
        CombinedReward({None: two_axes(0, 0)}, [Term(None, "helpfull", 1.0)])
    with pytest.raises(UsageError, match="it has harmless, helpful"):
        CombinedReward(
            {None: two_axes(0, 0)}, [Term(None, "helpful", 1.0)], [Gate(None, "zzz", 0.0)]
        )


@given(weights=st.lists(numbers, min_size=1, max_size=4).filter(any))
def test_a_written_specification_is_read_back(weights: list[float]) -> None:
    spec = ",".join(f"axis{i}={weight!r}" for i, weight in enumerate(weights))
    assert parse_reward(spec) == tuple(
        Term(None, f"axis{i}", weight) for i, weight in enumerate(weights)
    )


def test_names_folders_and_models_in_a_specification() -> None:
    assert parse_reward("hh-minilm") == "hh-minilm"
    assert parse_reward("some/folder") == "some/folder"
    assert parse_reward("C:\\models\\x:helpful=1, harmless=-0.5") == (
        Term("C:\\models\\x", "helpful", 1.0),
        Term(None, "harmless", -0.5),
    )
    assert parse_gate("a/b:harmless >= -0.5") == Gate("a/b", "harmless", -0.5)
    assert parse_gate("harmless>=1e-3") == Gate(None, "harmless", 0.001)


@pytest.mark.parametrize(
    "spec", ["", " ", "harmless=", "harmless=x", "=1", "a=1,", "a=1,a=2", "a=nan", "a=inf", "a=0"]
)
def test_senseless_specifications_are_usage_errors(spec: str) -> None:
    with pytest.raises(UsageError, match="--reward"):
        parse_reward(spec)


@pytest.mark.parametrize("text", ["", "harmless", "harmless>0", "harmless>=", "x>=nan", ">=1"])
def test_senseless_gates_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="--gate"):
        parse_gate(text)


def test_a_minus_infinite_bound_is_refused_rather_than_ignored() -> None:
    with pytest.raises(UsageError):
        parse_gate(f"harmless>={-math.inf}")


def test_a_combination_is_known_by_each_of_its_models() -> None:
    one, other = two_axes(1.0, 2.0), two_axes(3.0, 4.0)
    both = CombinedReward(
        {"a": one, "b": other}, [Term("a", "helpful", 1.0), Term("b", "helpful", 1.0)]
    )
    digests = digests_of(both)
    assert {both.info.sha256, one.info.sha256, other.info.sha256} == digests
    assert digests_of(one) == {one.info.sha256}
