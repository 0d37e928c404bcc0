"""Choosing a rollback strategy by trying it: branch, decode, drop, compare.

A strategy is sound if a branch that was dropped leaves no trace, if a branch goes on as a fresh
prefill of the same tokens would, and if it still does so after its trunk is gone. Models with a
sliding window are run past it. Verdicts are remembered by file and build.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from stars_local.core.errors import ModelError
from stars_local.llama.batch import Batch
from stars_local.llama.branches import Logits
from stars_local.llama.disk_cache import DiskCache
from stars_local.llama.library import native
from stars_local.llama.model import NativeModel
from stars_local.llama.rollback import BranchRollback, Rollback, SnapshotRollback, Strategy

# The order of cells in a cache moves the logits of a quantised file by up to 3 % of their range,
# both orders being right; a state that is not there moves them by a third and more.
TOLERANCE = 0.1
MAX_WINDOW = 1024  # windows up to this are passed: more would cost minutes on a small machine
_N_PREFIX, _N_SUFFIX = 16, 4
_TRUNK, _BRANCH, _FRESH = 0, 1, 0


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy and the reason for it, as one line."""

    strategy: Strategy
    reason: str


def choose(model: NativeModel) -> Choice:
    """The first sound strategy, branching before snapshots. Raises ModelError if neither is."""
    cache = DiskCache("rollback")
    key = (
        f"{model.info.weights_sha256} {model.n_ctx} {model.n_seq_max} {model.unified} {model.build}"
    )
    known = cache.get(key)
    if isinstance(known, list) and len(known) == 2 and known[0] in set(Strategy):
        return Choice(Strategy(known[0]), str(known[1]))
    choice = _try_all(model)
    cache.put(key, [choice.strategy.value, choice.reason])
    return choice


def _try_all(model: NativeModel) -> Choice:
    found, reason = examine(model, BranchRollback(model.memory))
    if found:
        return Choice(Strategy.BRANCH, f"branches agree with a fresh prefill ({reason})")
    refused = reason
    found, reason = examine(model, SnapshotRollback(model.context))
    if found:
        return Choice(
            Strategy.SNAPSHOT, f"branching is refused ({refused}); snapshots agree ({reason})"
        )
    raise ModelError(
        f"{model.path}: this model cannot be rolled back, neither by branches ({refused}) nor by "
        f"snapshots ({reason}): use another model"
    )


def examine(model: NativeModel, rollback: Rollback) -> tuple[bool, str]:
    """Whether a way of rolling back is sound on this model, and what was seen, in words.

    Uses the sequences 0 and 1 and leaves the cache empty.
    """
    probe = _Probe(model, rollback)
    try:
        return probe.run()
    except ModelError as error:
        return False, str(error)
    finally:
        native().llama_memory_clear(model.memory, True)


class _Probe:
    """One examination."""

    def __init__(self, model: NativeModel, rollback: Rollback) -> None:
        self._model = model
        self._rollback = rollback
        self._batch = Batch(model.n_batch)
        window = model.n_swa if 0 < model.n_swa <= MAX_WINDOW else 0
        n_wanted = max(_N_PREFIX, window + _N_PREFIX // 2)
        # a copied branch holds its prefix a second time
        self._n_prefix = max(1, min(n_wanted, model.n_ctx // 2 - _N_SUFFIX))
        self._passes_window = 0 < model.n_swa < self._n_prefix
        n_vocab = model.vocabulary.n_tokens
        n_tokens = self._n_prefix + _N_SUFFIX
        self._tokens = [(7919 * place + 13) % n_vocab for place in range(n_tokens)]

    def run(self) -> tuple[bool, str]:
        """See `examine`."""
        remove = native().llama_memory_seq_rm
        memory = self._model.memory
        self._decode(0, self._n_prefix, _TRUNK)
        dropped = self._branch_logits()
        remove(memory, _BRANCH, -1, -1)
        again = self._branch_logits()
        remove(memory, _TRUNK, -1, -1)
        orphan = self._decode(len(self._tokens) - 1, len(self._tokens), _BRANCH)
        remove(memory, _BRANCH, -1, -1)
        self._decode(0, self._n_prefix, _FRESH)
        fresh, last = (
            self._suffix_logits(_FRESH),
            self._decode(len(self._tokens) - 1, len(self._tokens), _FRESH),
        )
        scale = float(np.ptp(fresh))
        if not np.isfinite(scale) or scale == 0.0:
            return False, f"the logits span {scale}"
        worst = {
            "a second branch": _apart(dropped, again) / scale,
            "a fresh prefill": max(_apart(again, fresh), _apart(orphan, last)) / scale,
        }
        for what, apart in worst.items():
            if not apart <= TOLERANCE:
                return False, f"logits {apart:.1%} of their range away from {what}"
        seen = f"logits within {max(worst.values()):.2%} of their range"
        if self._model.n_swa == 0:
            return True, seen
        passed = "past" if self._passes_window else "short of"
        return True, f"{seen}, {passed} the window of {self._model.n_swa} tokens"

    def _branch_logits(self) -> Logits:
        if not self._rollback.fork(_TRUNK, _BRANCH):
            raise ModelError("the cache has no room for a second state")
        return self._suffix_logits(_BRANCH)

    def _suffix_logits(self, seq: int) -> Logits:
        """Logits after all but the last token of the suffix, decoded one by one."""
        places = range(self._n_prefix, len(self._tokens) - 1)
        return [self._decode(place, place + 1, seq) for place in places][-1]

    def _decode(self, start: int, stop: int, seq: int) -> Logits:
        """Decode tokens `start` up to `stop` into a sequence; the logits after the last."""
        for first in range(start, stop, self._batch.capacity):
            n = min(self._batch.capacity, stop - first)
            for at in range(n):
                place = first + at
                self._batch.put(at, self._tokens[place], place, seq, logits=at + 1 == n)
            if not self._batch.decode(self._model.context, n):
                raise ModelError("the cache has no room for a second state")
        row = native().llama_get_logits_ith(self._model.context, n - 1)
        view = np.ctypeslib.as_array(
            ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (self._model.vocabulary.n_tokens,)
        )
        return view.copy()


def _apart(left: Logits, right: Logits) -> float:
    return float(np.abs(left - right).max())
