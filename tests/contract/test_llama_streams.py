"""A stream for each prompt: its only attempt is drawn in place, and streams keep together."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import pytest

from stars_local.core.boundaries import Boundary
from stars_local.core.ports import Order
from stars_local.llama.engine import LlamaModel
from tests.contract.test_llama_rollback import PLAIN, TOLERANCE, fresh_logits, load
from tests.support.language_models import content, draws, prompt, propose

TEXT = "Once upon a time, when"
N = 12


def streams(n: int = N, n_ctx: int = 128) -> AbstractContextManager[LlamaModel]:
    return load("llama", unified=False, n_seq_max=n, n_ctx=n_ctx, strategy="branch")


def opened(model: LlamaModel, n: int = N) -> list[int]:
    return [model.open(prompt(TEXT + " " * i, str(i)), PLAIN).trunk for i in range(n)]


def lengths_agree(model: LlamaModel) -> bool:
    """Whether the native cache holds just what the books say of each trunk."""
    runtime = model._runtime
    return all(
        runtime.n_in(trunk.seq) == trunk.n_decoded
        for trunk in runtime.trunks.values()
        if not trunk.branches
    )


@pytest.mark.parametrize(
    ("architecture", "unified", "strategy", "lends"),
    [
        ("llama", False, "branch", True),
        ("llama", True, "branch", False),
        ("llama", False, "snapshot", False),
        ("jamba", False, "branch", False),
    ],
)
def test_only_streams_that_can_be_cut_are_lent(
    architecture: str, unified: bool, strategy: str, lends: bool
) -> None:
    with load(architecture, unified=unified, strategy=strategy) as model:
        assert model.lends is lends


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_loser_that_lost_its_place_may_still_be_committed(kept: int) -> None:
    """One at a time, none rejected: only the last holds the stream."""
    with streams() as model:
        trunk = model.open(prompt(TEXT), PLAIN).trunk
        found = [propose(model, trunk, seed, boundary=9)[0] for seed in range(3)]
        assert len({proposal.token_ids for proposal in found}) == 3
        model.commit(trunk, found[kept])
        (after,) = propose(model, trunk, 7, boundary=9)
        model.commit(trunk, after)
        ids = [*model.encode(prompt(TEXT)), *found[kept].token_ids, *after.token_ids]
        ours, fresh = model.next_logits(trunk), fresh_logits("llama", ids)
        np.testing.assert_allclose(ours, fresh, atol=TOLERANCE)
        assert lengths_agree(model)


def test_a_rejected_attempt_leaves_nothing_behind() -> None:
    with streams() as model:
        trunk = model.open(prompt(TEXT), PLAIN).trunk
        first = propose(model, trunk, 5)
        model.reject(trunk, first)
        assert lengths_agree(model)
        assert content(propose(model, trunk, 5)) == content(first)


def test_attempts_side_by_side_and_one_by_one_are_the_same() -> None:
    with streams() as model:
        trunk = model.open(prompt(TEXT), PLAIN).trunk
        alone = [propose(model, trunk, seed)[0] for seed in range(4)]
        together = propose(model, trunk, *range(4))
        assert content(together) == content(alone)
        orders = [Order(trunk, draws(seed), Boundary(8)) for seed in range(4)]
        assert content([each for (each,) in model.propose(orders)]) == content(alone)


def test_prompts_need_no_sequence_beside_their_own() -> None:
    with streams() as model:
        trunks = opened(model)
        assert model._runtime.ledger.n_free_seqs == 0
        for _ in range(3):
            orders = [Order(trunk, draws(trunk), Boundary(6)) for trunk in trunks]
            for trunk, (proposal,) in zip(trunks, model.propose(orders), strict=True):
                model.commit(trunk, proposal)
        assert lengths_agree(model)


def test_what_the_others_do_changes_no_token() -> None:
    """Answers that end, at once or for good, leave gaps that are filled or closed."""
    rounds = [(segment, Boundary(5 + 3 * segment)) for segment in range(4)]
    alone = []
    with streams() as model:
        for i in range(N):
            trunk = model.open(prompt(TEXT + " " * i, str(i)), PLAIN).trunk
            for segment, boundary in rounds:
                ((proposal,),) = model.propose([Order(trunk, draws(segment + i), boundary)])
                model.commit(trunk, proposal)
            alone.append(model.response_ids(trunk))
            model.close(trunk)
    with streams() as model:
        trunks = opened(model)
        live = dict(enumerate(trunks))
        for segment, boundary in rounds:
            orders = [
                # every third is cut short: its stream lies idle between the others
                Order(t, draws(segment + i), Boundary(2) if i % 3 == 1 else boundary)
                for i, t in live.items()
            ]
            replies = model.propose(orders)
            for (i, trunk), (proposal,) in zip(live.items(), replies, strict=True):
                if i % 3 == 1:
                    assert proposal.token_ids == alone[i][len(model.response_ids(trunk)) :][:2]
                    model.reject(trunk, [proposal])
                    ((proposal,),) = model.propose([Order(trunk, draws(segment + i), boundary)])
                model.commit(trunk, proposal)
            assert lengths_agree(model)
            for i in [i for i in live if i % 4 == segment]:
                trunk = live.pop(i)
                n = len(model.response_ids(trunk))
                assert model.response_ids(trunk) == alone[i][:n]
                model.close(trunk)
        assert live == {}


def test_ranks_are_closed_before_a_round() -> None:
    with streams() as model:
        trunks = opened(model)
        for trunk in trunks[:-3]:
            model.close(trunk)
        left = trunks[-3:]
        before = [model.next_logits(trunk) for trunk in left]
        model.propose([Order(trunk, draws(1), Boundary(4)) for trunk in left])
        runtime = model._runtime
        assert sorted(trunk.seq for trunk in runtime.trunks.values()) == [0, 1, 2]
        for trunk, logits in zip(left, before, strict=True):
            model._trunk(trunk).logits = None
            model._runtime.shorten(model._trunk(trunk))
            np.testing.assert_allclose(model.next_logits(trunk), logits, atol=TOLERANCE)


def test_a_stream_that_is_full_is_no_filler() -> None:
    with streams(3, n_ctx=64) as model:
        trunks = opened(model, 3)
        n_left = 64 - len(model.encode(prompt(TEXT + " ")))
        (most,) = propose(model, trunks[1], 1, boundary=n_left)
        model.commit(trunks[1], most)
        orders = [Order(trunk, draws(3), Boundary(8)) for trunk in (trunks[0], trunks[2])]
        apart = [model.propose([order])[0][0] for order in orders]
        for order, proposal in zip(orders, apart, strict=True):
            model.reject(order.trunk, [proposal])
        assert content([each for (each,) in model.propose(orders)]) == content(apart)
        assert lengths_agree(model)
