"""Finding room before anything is decoded: a seat for a prompt, and how wide a round can be.

Cells that only save time (cached prompts, idle proposals) go first, oldest first; only then is
a round made narrower or a prompt refused.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence

from stars_local.core.errors import ModelError, OutOfCellsError
from stars_local.core.ports import Order
from stars_local.llama.branches import Branch, Cached, Trunk
from stars_local.llama.cells import Need
from stars_local.llama.drawing import Lot
from stars_local.llama.rollback import Strategy, load_sequence
from stars_local.llama.runtime import Runtime


def seat(runtime: Runtime, trunk: Trunk) -> None:
    """Give a new trunk a sequence with room for its tokens: the cells of the cached prompt that
    shares most of them, where there is one.

    `n_decoded` says how many are there already. Raises OutOfCellsError, with nothing changed,
    if open prompts leave too little room.
    """
    ids = trunk.token_ids
    best = max(runtime.cached, key=lambda cached: cached.n_common(ids), default=None)
    if best is None or best.n_common(ids) == 0:
        trunk.seq = free_seq(runtime, len(ids))
        return
    _check_room(runtime, len(ids))
    runtime.cached.remove(best)
    trunk.seq = best.seq
    n_cached, n_common = len(best.token_ids), best.n_common(ids)
    if n_common == len(ids) == n_cached and best.logits is not None:
        trunk.n_decoded, trunk.logits = n_common, best.logits
        return
    n_reused = min(n_common, len(ids) - 1)  # the last token's logits must be computed
    if n_reused == n_cached or runtime.cut(best.seq, n_cached, n_reused):
        trunk.n_decoded = n_reused
    while not runtime.ledger.has_room(trunk.n_pending):
        runtime.evict()


def free_seq(runtime: Runtime, n_tokens: int) -> int:
    """A free sequence, with room for as many tokens: they are not held yet. Raises as `seat`."""
    _check_room(runtime, n_tokens)
    while runtime.ledger.n_free_seqs == 0 or not runtime.ledger.has_room(n_tokens):
        runtime.evict()
    return runtime.ledger.take_seq()


def restore(runtime: Runtime, ids: list[int], state: bytes) -> None:
    """Put the state of these tokens among the cached prompts. Raises as `seat`, and ModelError
    if the state does not hold them; nothing is changed after either."""
    seq = free_seq(runtime, len(ids))
    buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
    n_seen = runtime.n_in(seq) if load_sequence(runtime.context, seq, buffer) else 0
    if n_seen != len(ids):
        runtime.drop_seq(seq)
        raise ModelError(f"the saved state holds {n_seen} of its {len(ids)} tokens: save it again")
    runtime.ledger.hold(seq, len(ids))
    runtime.remember(Cached(seq, ids, None))


def lots(runtime: Runtime, orders: Sequence[tuple[Order, Trunk]]) -> list[Lot]:
    """The branches of a round: as many as there is room for, one an order at least.

    Raises OutOfCellsError, with nothing drawn, if there is no room even for that.
    """
    ledger = runtime.ledger
    n_orders = Counter(trunk.id for _, trunk in orders)
    needs = [
        Need(
            len(order.draws),
            len(trunk.token_ids),
            max(0, min(order.boundary.max_tokens, _room(runtime, trunk)) - 1),
            runtime.lends and len(order.draws) == 1 and n_orders[trunk.id] == 1,
        )
        for order, trunk in orders
    ]
    wanted = [need.n_draws for need in needs]
    while True:
        n_cells, n_seqs = _available(runtime, list(zip(needs, orders, strict=True)))
        granted = ledger.allot(needs, n_cells=n_cells, n_seqs=n_seqs)
        if granted == wanted or not runtime.evict():
            break
    if granted is None:
        raise OutOfCellsError(
            f"{len(orders)} proposals of up to {1 + max(need.n_new for need in needs)} tokens "
            f"need more than the {n_cells} cells (of {ledger.n_cells}) and {n_seqs} sequences "
            "that are free: raise --n-ctx or draw fewer prompts at once"
        )
    return [
        _lot(runtime, *order, n, borrows=need.borrows)
        for order, n, need in zip(orders, granted, needs, strict=True)
    ]


def _available(
    runtime: Runtime, wishes: Sequence[tuple[Need, tuple[Order, Trunk]]]
) -> tuple[int, int]:
    """Cells and sequences for the branches of a round, once its trunks are decoded.

    A trunk that is stowed when it forks gives its own to its branches; any other needs room for
    the tokens that it has not decoded yet.
    """
    ledger = runtime.ledger
    n_cells, n_seqs = ledger.n_free_cells, ledger.n_free_seqs
    trunks = {trunk.id: trunk for _, (_, trunk) in wishes}
    forking = {trunk.id for need, (_, trunk) in wishes if need.forks}
    stows = runtime.strategy is Strategy.SNAPSHOT
    for trunk in trunks.values():
        n_held = ledger.held_by(trunk.seq) if trunk.seq >= 0 else 0
        if stows and trunk.id in forking:
            n_cells += n_held
            n_seqs += int(trunk.seq >= 0)
        elif trunk.logits is None:
            n_cells -= len(trunk.token_ids) - n_held
            n_seqs -= int(trunk.seq < 0)
    return n_cells, n_seqs


def _lot(runtime: Runtime, order: Order, trunk: Trunk, n: int, *, borrows: bool) -> Lot:
    branches = [
        Branch(
            runtime.new_handle(),
            trunk,
            trunk.chain.branch(draw),
            order.boundary,
            _room(runtime, trunk),
            trunk.scanner,
            trunk.waiting,
        )
        for draw in order.draws[:n]
    ]
    return Lot(order, trunk, branches, borrows)


def _room(runtime: Runtime, trunk: Trunk) -> int:
    """Tokens that still fit the context."""
    return runtime.model.n_ctx - len(trunk.token_ids)


def _check_room(runtime: Runtime, n_tokens: int) -> None:
    ledger, trunks = runtime.ledger, runtime.trunks
    if len(trunks) >= runtime.model.n_seq_max:
        raise OutOfCellsError(
            f"{len(trunks)} prompts are open and the context has {runtime.model.n_seq_max} "
            "sequences: close some, or raise n_seq_max"
        )
    n_lasting = sum(trunk.n_decoded for trunk in trunks.values())
    if not ledger.would_fit(n_lasting + n_tokens):
        raise OutOfCellsError(
            f"the prompt needs {n_tokens} cells, open prompts hold {n_lasting} of "
            f"{ledger.n_cells}: open fewer prompts at once or raise --n-ctx"
        )
