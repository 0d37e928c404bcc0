"""Where randomness comes from: every draw's seed is a function of what it is for.

seed = first 8 bytes of BLAKE2b(run seed, prompt id, turn, segment, attempt, purpose). Neither
method nor model nor width enters, so runs that differ in these alone share their randomness,
and an attempt drawn in parallel is the attempt that would have been drawn alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

N_SEEDS = 2**32 - 1  # llama.cpp reads 0xFFFFFFFF as "choose at random": it is never derived


@dataclass(frozen=True, slots=True)
class SeedSource:
    """The randomness of one answer. `seed` is any integer, 0 included."""

    seed: int
    prompt_id: str
    turn: int = 0

    def _digest(self, segment: int, attempt: int, purpose: str) -> int:
        key = f"{self.seed}\x1f{self.prompt_id}\x1f{self.turn}\x1f{segment}\x1f{attempt}"
        raw = hashlib.blake2b(key.encode(), digest_size=8, person=purpose.encode()).digest()
        return int.from_bytes(raw, "big")

    def draw(self, segment: int, attempt: int) -> int:
        """The seed of an attempt's token draws, in [0, 2**32 - 2]."""
        return self._digest(segment, attempt, "draw") % N_SEEDS

    def uniform(self, segment: int, attempt: int) -> float:
        """The number in [0, 1) that an attempt's acceptance probability is held against."""
        return (self._digest(segment, attempt, "accept") >> 11) / 2.0**53
