"""Rollback over llama.cpp: logits, cells and strategies, on tiny files of every architecture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from stars_local.core.boundaries import Boundary, BoundaryKind
from stars_local.core.errors import ModelError, OutOfCellsError
from stars_local.core.ports import Order
from stars_local.core.records import End, Sampling
from stars_local.llama import probe
from stars_local.llama.drawing import Round
from stars_local.llama.engine import LlamaModel
from stars_local.llama.library import native
from stars_local.llama.model import NativeModel
from stars_local.llama.probe import Choice, choose, examine
from stars_local.llama.rollback import BranchRollback, SnapshotRollback, Strategy
from tests.support.language_models import content, draws, prompt, propose, tiny_path
from tests.support.tiny_gguf import ARCHITECTURES, SLIDING_WINDOW

PLAIN = Sampling(top_k=0, ignore_eog=True)
STRATEGIES = ("branch", "snapshot")
# F32 weights with an F16 cache: the order of cells moves logits by up to 0.011 of a span of 8
TOLERANCE = 0.03


@contextmanager
def load(architecture: str, **options: Any) -> Iterator[LlamaModel]:
    """A tiny model, one thread, 512 tokens."""
    with LlamaModel(
        tiny_path(architecture), **{"n_ctx": 512, "n_threads": 1, "n_seq_max": 16, **options}
    ) as model:
        yield model


def fresh_logits(architecture: str, ids: list[int]) -> Any:
    """Logits after a fresh prefill of all tokens."""
    with load(architecture) as model:
        trunk = model.open(prompt("x"), PLAIN).trunk
        state = model._trunk(trunk)
        model._runtime.forget(state)
        state.token_ids, state.n_decoded, state.logits = list(ids), 0, None
        return model.next_logits(trunk)


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_after_accepted_branches_equal_a_fresh_prefill(
    architecture: str, strategy: str, unified: bool
) -> None:
    with load(architecture, strategy=strategy, unified=unified) as model:
        trunk = model.open(prompt("Once upon a time, when"), PLAIN).trunk
        n_ids = len(model.encode(prompt("Once upon a time, when")))
        for segment in range(4):
            proposals = propose(model, trunk, *range(4), boundary=12)
            model.reject(trunk, proposals[:1])
            model.commit(trunk, proposals[1 + segment % 3])
        ids = model.encode(prompt("Once upon a time, when")) + list(model.response_ids(trunk))
        assert len(ids) == n_ids + 48 > SLIDING_WINDOW
        ours, fresh = model.next_logits(trunk), fresh_logits(architecture, ids)
        assert float(np.ptp(fresh)) > 5.0
        np.testing.assert_allclose(ours, fresh, atol=TOLERANCE)
        other = fresh_logits(architecture, ids[:-2] + ids[-1:])
        assert float(np.abs(ours - other).max()) > 5 * TOLERANCE


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_strategies_draw_the_same_tokens(architecture: str) -> None:
    """Seeds are chosen so that no draw falls within the tolerance of another token."""
    responses = []
    for strategy in STRATEGIES:
        with load(architecture, strategy=strategy) as model:
            trunk = model.open(prompt(), PLAIN).trunk
            for segment in range(3):
                proposals = propose(model, trunk, segment, segment + 10, boundary=16)
                model.commit(trunk, proposals[1])
            responses.append(model.response_ids(trunk))
    assert responses[0] == responses[1]


def test_rollback_at_the_end_of_the_window_and_past_it() -> None:
    for strategy in STRATEGIES:
        with load("gemma3", strategy=strategy) as model:
            trunk = model.open(prompt("y" * (SLIDING_WINDOW - 4)), PLAIN).trunk
            for segment in range(6):
                first = propose(model, trunk, segment, 7, 8)
                model.reject(trunk, first)
                again = propose(model, trunk, segment, 7, 8)
                assert content(first) == content(again)
                model.commit(trunk, again[0])


class Watch:
    """Fails the test if a round ran out of cells while it was drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def shed(self: Round, lots: object) -> None:
            raise AssertionError("the plan promised cells that were not there")

        monkeypatch.setattr(Round, "_shed", shed)


def decode_one(model: LlamaModel, n: int) -> bool:
    """Whether the native cache still takes `n` tokens in a sequence of their own."""
    runtime = model._runtime
    seq = runtime.ledger.take_seq()
    for at in range(n):
        runtime.batch.put(at, 5, at, seq, logits=False)
    fits = runtime.batch.decode(runtime.context, n)
    runtime.drop_seq(seq)
    return fits


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "jamba"])
def test_branches_use_the_cache_to_the_last_cell(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 cells: a prefix of P and w branches of B tokens hold P + w (B - 1)."""
    Watch(monkeypatch)
    with load(architecture, strategy="branch", n_ctx=256) as model:
        trunk = model.open(prompt("z" * 30), PLAIN)
        n_prefix = trunk.n_prompt_tokens
        width, n_new = 5, (256 - n_prefix) // 5
        n_left = 256 - n_prefix - width * n_new
        proposals = propose(model, trunk.trunk, *range(9), boundary=n_new + 1)
        assert len(proposals) == width
        assert model._runtime.ledger.n_free_cells == n_left
        assert decode_one(model, n_left) or n_left == 0
        assert not decode_one(model, n_left + 1)
        model.reject(trunk.trunk, proposals)
        wider = propose(model, trunk.trunk, *range(9), boundary=n_new + 2)
        assert len(wider) == width - 1


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "jamba"])
def test_snapshots_use_the_cache_to_the_last_cell(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 cells: w copies of a prefix of P hold w (P + B - 1), the trunk none."""
    Watch(monkeypatch)
    with load(architecture, strategy="snapshot", n_ctx=256) as model:
        trunk = model.open(prompt("z" * 30), PLAIN)
        width, n_new = 4, 64 - trunk.n_prompt_tokens
        assert n_new > 1
        proposals = propose(model, trunk.trunk, *range(9), boundary=n_new + 1)
        assert len(proposals) == width
        assert model._runtime.ledger.n_free_cells == 0
        assert not decode_one(model, 1)
        again = propose(model, trunk.trunk, *range(9), boundary=n_new + 2)
        assert len(again) == width - 1
        model.commit(trunk.trunk, again[-1])
        assert model._runtime.ledger.n_held == trunk.n_prompt_tokens + n_new + 1


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_idle_proposal_makes_room_and_may_still_win(architecture: str, strategy: str) -> None:
    with load(architecture, strategy=strategy, n_ctx=256, n_seq_max=4) as model:
        opened = model.open(prompt("w" * 100), PLAIN)
        (best,) = propose(model, opened.trunk, 1, boundary=20)
        for seed in range(2, 6):
            round_ = propose(model, opened.trunk, *range(seed, seed + 40, 10), boundary=40)
            model.reject(opened.trunk, round_)
        assert model._trunk(opened.trunk).branches[best.handle].seq is None
        model.commit(opened.trunk, best)
        assert model.response_ids(opened.trunk) == best.token_ids
        ids = model.encode(prompt("w" * 100)) + list(best.token_ids)
        ours = model.next_logits(opened.trunk)
        np.testing.assert_allclose(ours, fresh_logits(architecture, ids), atol=TOLERANCE)
        (after,) = propose(model, opened.trunk, 3)
        assert after.n_tokens == 8


@pytest.mark.parametrize("architecture", ["llama", "mamba"])
def test_a_stop_string_is_cut_from_the_cache(architecture: str) -> None:
    with load(architecture) as model:
        trunk = model.open(prompt(), PLAIN).trunk
        (first,) = propose(model, trunk, 1, boundary=20)
        model.commit(trunk, first)
        (second,) = propose(model, trunk, 2, boundary=20)
        model.close(trunk)
        whole = first.text + second.text
        stop = whole[len(first.text) - 1 :][:3]
        start = whole.index(stop)
        trunk = model.open(prompt(), PLAIN, (stop,)).trunk
        for seed in (1, 2):
            (segment,) = propose(model, trunk, seed, boundary=20)
            model.commit(trunk, segment)
            if segment.end is End.STOP_STRING:
                break
        kept = model.response_ids(trunk)
        state = model._trunk(trunk)
        assert state.n_chars == start
        assert len(kept) < len(first.token_ids + second.token_ids)
        assert state.n_decoded <= len(state.token_ids)
        ids = model.encode(prompt()) + list(kept)
        ours = model.next_logits(trunk)
        np.testing.assert_allclose(ours, fresh_logits(architecture, ids), atol=TOLERANCE)


def test_entropy_ends_a_segment_where_its_logits_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits that ended a segment are those that the next one draws its first token from."""
    with load("llama") as model:
        trunk = model.open(prompt(), PLAIN).trunk
        rule = Boundary(30, BoundaryKind.ENTROPY, min_tokens=3, entropy_threshold=4.2)
        lengths = set()
        for seed in range(8):
            (segment,) = propose(model, trunk, seed, boundary=rule)
            lengths.add(segment.n_tokens)
            model.commit(trunk, segment)
            state = model._trunk(trunk)
            if segment.n_tokens < 30:
                assert state.n_pending == 0
                logits = model.next_logits(trunk).astype(np.float64)
                p = np.exp(logits - logits.max())
                p /= p.sum()
                assert -(p * np.log(p)).sum() >= 4.2
        assert len(lengths) > 1


def test_running_dry_all_the_same_sheds_the_last_proposals() -> None:
    """A cache that holds less than its ledger believes still gives the first proposals."""
    with load("llama", n_ctx=256, n_seq_max=24) as model:
        trunk = model.open(prompt("z" * 20), PLAIN).trunk
        wanted = content(propose(model, trunk, *range(2), boundary=60))
        model.close(trunk)
        trunk = model.open(prompt("z" * 20), PLAIN).trunk
        model._runtime.ledger.n_cells = 10_000
        found = propose(model, trunk, *range(6), boundary=60)
        assert 1 <= len(found) < 6
        assert content(found)[0][0][:20] == wanted[0][0][:20]  # type: ignore[index]
        assert all(p.n_tokens == 60 for p in found)
        model.reject(trunk, found)
        model.open(prompt("w" * 120), PLAIN)
        with pytest.raises(OutOfCellsError, match="no room for one more token"):
            propose(model, trunk, 1, boundary=200)
        assert propose(model, trunk, 1)[0].n_tokens == 8


# -- the probe -------------------------------------------------------------------------------


class Forgets:
    """A rollback that copies nothing."""

    def fork(self, trunk: int, branch: int) -> bool:
        """Nothing."""
        return True


class Moves:
    """A rollback that destroys the trunk."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory

    def fork(self, trunk: int, branch: int) -> bool:
        """Copies, and removes what it copied from."""
        native().llama_memory_seq_cp(self._memory, trunk, branch, -1, -1)
        native().llama_memory_seq_rm(self._memory, trunk, -1, -1)
        return True


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_probe_tells_good_rollbacks_from_bad_ones(architecture: str) -> None:
    with load(architecture) as model:
        inner: NativeModel = model._native
        for good in (BranchRollback(inner.memory), SnapshotRollback(inner.context)):
            sound, reason = examine(inner, good)
            assert sound, reason
        for bad in (Forgets(), Moves(inner.memory)):
            sound, reason = examine(inner, bad)
            assert not sound
            assert "range away" in reason or "refused" in reason
        # and it leaves an empty cache behind
        (found,) = propose(model, model.open(prompt(), PLAIN).trunk, 1)
        assert found.n_tokens == 8


def test_the_probe_names_its_reason() -> None:
    with load("gemma3") as model:
        assert model.strategy is Strategy.BRANCH
        assert "fresh prefill" in model.strategy_reason
        assert f"past the window of {SLIDING_WINDOW} tokens" in model.strategy_reason
    with load("llama", strategy="snapshot") as model:
        assert (model.strategy, model.strategy_reason) == (Strategy.SNAPSHOT, "asked for")
    with pytest.raises(ModelError, match="auto, branch or snapshot"):
        LlamaModel(tiny_path("llama"), strategy="other")


def test_snapshots_stand_in_where_branching_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(memory: object) -> Forgets:
        return Forgets()

    monkeypatch.setattr(probe, "BranchRollback", forgets)
    with load("jamba", n_ctx=300, strategy="auto") as model:
        assert model.strategy is Strategy.SNAPSHOT
        assert "branching is refused (logits" in model.strategy_reason
        calls: list[object] = []
        monkeypatch.setattr(probe, "_try_all", calls.append)
        assert choose(model._native) == Choice(model.strategy, model.strategy_reason)
        assert not calls


def test_a_model_that_cannot_roll_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BranchRollback", "SnapshotRollback"):
        monkeypatch.setattr(probe, name, lambda state: Forgets())
    with pytest.raises(ModelError, match="cannot be rolled back"):
        LlamaModel(tiny_path("mamba"), n_ctx=320, n_threads=1)


def test_orders_share_cells_fairly() -> None:
    with load("llama", n_ctx=256) as model:
        trunks = [model.open(prompt(text * 10), PLAIN).trunk for text in ("ab", "cd")]
        orders = [Order(trunk, draws(*range(8)), Boundary(21)) for trunk in trunks]
        widths = [len(reply) for reply in model.propose(orders)]
        assert max(widths) - min(widths) <= 1
        assert sum(widths) < 16
