"""One batch, allocated once and refilled: decoding allocates nothing per token.

Every entry belongs to one sequence, so the sequence-id lists never change shape and only four
arrays are written per step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from stars_local.core.errors import ModelError
from stars_local.llama.library import last_words, native

NO_ROOM = 1  # llama_decode: could not find cells for the batch; the state is unchanged


class Batch:
    """Entries (token, position, sequence, wants logits) for one `llama_decode`.

    The arrays are public so that the decoding loop can write them without a call per token;
    only the first `n` entries given to `decode` are read.
    """

    def __init__(self, capacity: int) -> None:
        lib = native()
        self.capacity = capacity
        self.tokens = (ctypes.c_int32 * capacity)()
        self.positions = (ctypes.c_int32 * capacity)()
        self.sequences = (ctypes.c_int32 * capacity)()
        self.wants_logits = (ctypes.c_int8 * capacity)()
        self._n_seq_id = (ctypes.c_int32 * capacity)(*([1] * capacity))
        pointer = ctypes.POINTER(ctypes.c_int32)
        base, size = ctypes.addressof(self.sequences), ctypes.sizeof(ctypes.c_int32)
        self._seq_id = (pointer * capacity)(
            *(
                ctypes.cast(ctypes.c_void_p(base + i * size), pointer)  # entry i of sequences
                for i in range(capacity)
            )
        )
        self._batch = lib.llama_batch(
            0,
            ctypes.cast(self.tokens, ctypes.POINTER(ctypes.c_int32)),
            None,
            ctypes.cast(self.positions, ctypes.POINTER(ctypes.c_int32)),
            ctypes.cast(self._n_seq_id, ctypes.POINTER(ctypes.c_int32)),
            ctypes.cast(self._seq_id, ctypes.POINTER(pointer)),
            ctypes.cast(self.wants_logits, ctypes.POINTER(ctypes.c_int8)),
        )
        self._decode: Callable[[Any, Any], int] = lib.llama_decode

    def put(self, at: int, token: int, position: int, sequence: int, *, logits: bool) -> None:
        """Write one entry."""
        self.tokens[at] = token
        self.positions[at] = position
        self.sequences[at] = sequence
        self.wants_logits[at] = logits

    def decode(self, context: Any, n: int) -> bool:
        """Decode the first `n` entries; False if there was no room, and nothing changed.

        Raises ModelError on any other refusal: what was decoded before it is then undefined.
        """
        self._batch.n_tokens = n
        code = self._decode(context, self._batch)
        if code == 0:
            return True
        if code == NO_ROOM:
            return False
        raise ModelError(
            f"llama_decode refused a batch of {n} tokens with code {code} ({last_words()}): "
            "this is a bug or a damaged model file"
        )
