"""Decoding the last tokens of drawn branches before it is known which of them is committed."""

from __future__ import annotations

from stars_local.core.records import End
from stars_local.llama.branches import Trunk
from stars_local.llama.runtime import Runtime


def look_ahead(runtime: Runtime, trunk: Trunk) -> None:
    """Decode the last token of each branch that an answer could go on from, all in one batch,
    and note the logits after it; nothing where the cache has no room for them."""
    branches = [
        branch
        for branch in trunk.branches.values()
        if branch.end is End.BOUNDARY and branch.logits is None and branch.seq is not None
    ]
    n, batch = len(branches), runtime.batch
    if n == 0 or not runtime.ledger.has_room(n):
        return
    branches.sort(key=lambda branch: branch.held_seq)
    for at, branch in enumerate(branches):
        place = trunk.n_decoded + branch.n_decoded
        batch.put(at, branch.token_ids[-1], place, branch.held_seq, logits=True)
    if not batch.decode(runtime.context, n):
        return
    for at, branch in enumerate(branches):
        branch.n_decoded += 1
        runtime.ledger.hold(branch.held_seq, 1)
        branch.logits = runtime.logits(at).copy()
