"""Looking ahead changes when a token is decoded and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stars_local.core.boundaries import Boundary
from stars_local.core.ports import Order
from stars_local.llama.batch import Batch
from stars_local.llama.engine import LlamaModel
from tests.contract.test_llama_rollback import PLAIN, STRATEGIES, TOLERANCE, fresh_logits, load
from tests.support.language_models import draws, prompt, propose
from tests.support.tiny_gguf import ARCHITECTURES

TEXT = "Once upon a time, when"


def grow(model: LlamaModel, width: int, *, ahead: bool) -> tuple[int, list[int]]:
    """Three segments, the last attempt of each committed after a rejected round."""
    trunk = model.open(prompt(TEXT), PLAIN).trunk
    for segment in range(3):
        for round_ in range(2):
            seeds = range(100 * segment + 10 * round_, 100 * segment + 10 * round_ + width)
            proposals = propose(model, trunk, *seeds, boundary=6)
            if ahead:
                model.look_ahead(trunk)
                model.look_ahead(trunk)  # a second time there is nothing left to do
            if round_ == 0:
                model.reject(trunk, proposals)
        model.commit(trunk, proposals[-1])
    return trunk, [*model.encode(prompt(TEXT)), *model.response_ids(trunk)]


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("width", [1, 3])
def test_logits_after_looking_ahead_equal_a_fresh_prefill(
    architecture: str, strategy: str, unified: bool, width: int
) -> None:
    with load(architecture, strategy=strategy, unified=unified) as model:
        trunk, ids = grow(model, width, ahead=True)
        state = model._trunk(trunk)
        assert state.n_pending == 0
        ours = model.next_logits(trunk)
        assert model._runtime.n_in(state.seq) == len(ids)
        model.close(trunk)
        assert model._runtime.ledger.n_held == 0
    np.testing.assert_allclose(ours, fresh_logits(architecture, ids), atol=TOLERANCE)


@pytest.mark.parametrize("width", [1, 3])
def test_the_same_tokens_are_drawn(width: int) -> None:
    with load("llama") as model:
        assert grow(model, width, ahead=True)[1] == grow(model, width, ahead=False)[1]


def test_the_next_round_has_a_step_less_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, sizes = Batch.decode, []

    def counting(batch: Batch, context: Any, n: int) -> bool:
        sizes.append(n)
        return decode(batch, context, n)

    monkeypatch.setattr(Batch, "decode", counting)
    with load("llama") as model:
        trunk = model.open(prompt(TEXT), PLAIN).trunk
        proposals = propose(model, trunk, 1, 2, 3, boundary=4)
        sizes.clear()
        model.look_ahead(trunk)
        assert sizes == [3]
        model.commit(trunk, proposals[0])
        propose(model, trunk, 4, 5, 6, boundary=4)
        assert sizes == [3, *[3] * 3]  # else a 1 between: the winner's last token


def test_what_an_answer_cannot_go_on_from_is_left_alone() -> None:
    with load("llama") as model:
        trunk = model.open(prompt(TEXT), PLAIN).trunk
        model.look_ahead(trunk)  # no proposals
        order = Order(trunk, draws(1, 2), Boundary(8), lambda: True)
        model.propose([order])
        before = model._runtime.ledger.n_held
        model.look_ahead(trunk)
        assert model._runtime.ledger.n_held == before


def test_without_room_nothing_is_decoded_ahead() -> None:
    with load("llama") as model:
        trunk = model.open(prompt(TEXT), PLAIN).trunk
        proposals = propose(model, trunk, 1, 2, boundary=4)
        ledger = model._runtime.ledger
        spare = ledger.take_seq()
        ledger.hold(spare, ledger.n_free_cells - 1)
        held = ledger.n_held
        model.look_ahead(trunk)
        assert ledger.n_held == held
        ledger.release_seq(spare)
        model.commit(trunk, proposals[1])
        assert model._trunk(trunk).n_pending == 1
