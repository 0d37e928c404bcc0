"""Drawing from many places of one decoded batch, a share of them a thread.

A chain costs a pass over the whole vocabulary; with dozens of sequences that is a part of a step
that one core would work through while the others wait for the next decode. Chains share nothing,
so that the tokens are the same however they are shared out; ctypes releases the interpreter's
lock inside each call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stars_local.llama.library import native

MIN_SHARE = 8  # places that pay for waking a thread
MAX_THREADS = 8

Drawn = tuple[int, Any]


class SamplingPool:
    """Threads that sample, started when they are first needed; `close` ends them."""

    def __init__(self, n_threads: int) -> None:
        self._n_threads = min(n_threads, MAX_THREADS)
        self._pool: ThreadPoolExecutor | None = None
        lib = native()
        self._sample: Callable[[Any, Any, int], int] = lib.llama_sampler_sample
        self._logits = lib.llama_get_logits_ith

    def draw(self, context: Any, wanted: Sequence[Drawn]) -> list[int]:
        """A token for each (place in the batch, native chain), in order, each accepted by its
        chain."""
        n_shares = min(self._n_threads, len(wanted) // MIN_SHARE)
        if n_shares < 2:
            return self._draw(context, wanted)
        self._logits(context, wanted[0][0])  # what the first access sets right is right for all
        bounds = [len(wanted) * share // n_shares for share in range(n_shares + 1)]
        shares = [wanted[low:high] for low, high in itertools.pairwise(bounds)]
        pending = [self._started().submit(self._draw, context, share) for share in shares[1:]]
        drawn = self._draw(context, shares[0])
        for each in pending:
            drawn += each.result()
        return drawn

    def close(self) -> None:
        """End the threads; harmless when repeated."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _draw(self, context: Any, wanted: Sequence[Drawn]) -> list[int]:
        sample = self._sample
        return [sample(chain, context, place) for place, chain in wanted]

    def _started(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._n_threads - 1, "sampling")
        return self._pool
