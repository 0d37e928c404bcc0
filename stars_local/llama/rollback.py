"""How a branch comes to hold its trunk's state: the two rollback strategies.

    branch     llama_memory_seq_cp: the branch shares the trunk's cells, copied on write
    snapshot   llama_state_seq_get_data and set_data: the branch gets a copy of its own, and the
               trunk waits in host memory, so that no cell holds what no branch needs

Rolling back is the same for both: the branch's sequence is removed as a whole, which never
fails, on any architecture.
"""

from __future__ import annotations

import ctypes
from enum import StrEnum
from typing import Any, Protocol

from stars_local.core.errors import ModelError
from stars_local.llama.cells import Sharing
from stars_local.llama.library import native


class Strategy(StrEnum):
    """The names of the rollback strategies."""

    BRANCH = "branch"
    SNAPSHOT = "snapshot"


class Rollback(Protocol):
    """Makes branches of a sequence, for the probe."""

    def fork(self, trunk: int, branch: int) -> bool:
        """Give an empty sequence the state of `trunk`; False if the cache has no room."""
        ...


class BranchRollback:
    """Copy on write within the cache: microseconds, whatever the prefix."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self._copy = native().llama_memory_seq_cp

    def fork(self, trunk: int, branch: int) -> bool:
        """See `Rollback`; there is always room."""
        # the whole range: anything less aborts the process where the cache is not unified
        self._copy(self._memory, trunk, branch, -1, -1)
        return True


class SnapshotRollback:
    """Save and restore: works wherever state can be saved, at the price of the prefix's cells
    for every branch."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def fork(self, trunk: int, branch: int) -> bool:
        """See `Rollback`."""
        return load_sequence(self._context, branch, save_sequence(self._context, trunk))


def save_sequence(context: Any, seq: int) -> Any:
    """The state of one sequence as a ctypes array of bytes."""
    lib = native()
    size = lib.llama_state_seq_get_size(context, seq)
    state = (ctypes.c_uint8 * size)()
    written = lib.llama_state_seq_get_data(context, state, size, seq)
    if written != size:
        raise ModelError(
            f"llama.cpp saved {written} of {size} bytes of a sequence's state: this model cannot "
            "be rolled back by snapshot"
        )
    return state


def load_sequence(context: Any, seq: int, state: Any) -> bool:
    """Put a saved state into a sequence, replacing it; False if there was no room for it."""
    return bool(native().llama_state_seq_set_data(context, state, len(state), seq))


def sharing_of(strategy: Strategy, *, unified: bool, has_attention: bool) -> Sharing:
    """How cells are counted. A model without attention keeps one state a sequence, no cells."""
    if not unified or not has_attention:
        return Sharing.OWN
    return Sharing.SHARED if strategy is Strategy.BRANCH else Sharing.COPIED
