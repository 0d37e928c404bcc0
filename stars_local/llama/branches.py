"""The state of open prompts (trunks) and of proposals (branches) on the Python side."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stars_local.core.boundaries import Boundary, StopScanner
from stars_local.core.records import End, Proposal
from stars_local.llama.sampler import BranchChain, Chain
from stars_local.llama.tokens import Vocabulary, decode_utf8, flush_utf8

Logits = NDArray[np.float32]


@dataclass(slots=True)
class Cached:
    """Cells of a closed prompt that wait to be reused.

    `token_ids` are decoded, all of them; logits: those after the last, where known.
    """

    seq: int
    token_ids: list[int]
    logits: Logits | None

    def n_common(self, token_ids: Sequence[int]) -> int:
        """Length of the longest common prefix with other tokens."""
        n = min(len(self.token_ids), len(token_ids))
        for place in range(n):
            if self.token_ids[place] != token_ids[place]:
                return place
        return n


@dataclass(slots=True)
class Trunk:
    """An open prompt: its tokens, of which the first `n_decoded` are in the cache.

    seq: its sequence, -1 while it has none: then the state of those `n_decoded` tokens is
    `saved` in host memory (or there are none). The last committed token waits until the next
    round, which decodes it once for all branches. logits: those after the last token, None
    until all tokens are decoded. char_ends: characters of the response that each response token
    completes, counted from the response's start. splits_token: whether a stop string began inside
    a token, of which the response keeps the first characters and the cache nothing.
    """

    id: int
    token_ids: list[int]
    n_prompt: int
    chain: Chain
    scanner: StopScanner
    wants_logprobs: bool
    seq: int = -1
    saved: Any = None
    n_decoded: int = 0
    logits: Logits | None = None
    waiting: bytes = b""
    n_chars: int = 0
    char_ends: list[int] = field(default_factory=list)
    splits_token: bool = False
    branches: dict[int, Branch] = field(default_factory=dict)

    @property
    def n_pending(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.token_ids) - self.n_decoded

    @property
    def known_logits(self) -> Logits:
        """The logits after the last token, where it must have been decoded."""
        if self.logits is None:
            raise ValueError(f"the tokens of prompt {self.id} are not decoded")
        return self.logits

    @property
    def response_ids(self) -> tuple[int, ...]:
        """The committed tokens of the response, without any that a stop string took away."""
        return tuple(self.token_ids[self.n_prompt :])

    def absorb(self, branch: Branch) -> None:
        """Take over a branch's tokens, text and sampler; who holds which cells is not touched.

        Tokens whose text a stop string took away are left out; `n_decoded` may then be more
        than there are tokens, and the caller cuts the cache.
        """
        branch.chain.give_to(self.chain)
        if not branch.token_ids:
            self.waiting, self.n_chars = branch.waiting, self.n_chars + len(branch.text)
            return
        n_before = self.n_chars - branch.n_backtrack
        self.char_ends += [self.n_chars + end for end in branch.char_ends]
        self.n_chars = n_before + len(branch.text)
        self.token_ids += branch.token_ids
        self.n_decoded += branch.n_decoded
        self.logits, self.scanner, self.waiting = branch.logits, branch.scanner, branch.waiting
        if branch.end is End.STOP_STRING:
            n_kept = bisect_right(self.char_ends, self.n_chars)
            del self.char_ends[n_kept:]
            del self.token_ids[self.n_prompt + n_kept :]
            self.splits_token = (self.char_ends[-1] if self.char_ends else 0) < self.n_chars
            self.logits, self.waiting = None, b""


@dataclass(slots=True)
class Branch:
    """A proposal being drawn, or drawn.

    seq: the sequence that holds its state; None before it needs one, and after its cells were
    given up (its tokens are then decoded again if it is committed); it may be its trunk's own, lent
    to it. n_decoded: how many of its
    own tokens are in the cache; the last drawn one usually is not. room: tokens that fit.
    """

    handle: int
    trunk: Trunk
    chain: BranchChain
    boundary: Boundary
    room: int
    scanner: StopScanner
    waiting: bytes
    seq: int | None = None
    n_decoded: int = 0
    end: End | None = None
    text: str = ""
    n_backtrack: int = 0
    logits: Logits | None = None
    token_ids: list[int] = field(default_factory=list)
    char_ends: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def borrows(self) -> bool:
        """Whether its tokens stand behind its trunk's, in the same sequence."""
        return self.seq is not None and self.seq == self.trunk.seq

    @property
    def held_seq(self) -> int:
        """Its sequence, where it must have one."""
        if self.seq is None:
            raise ValueError(f"branch {self.handle} holds no sequence")
        return self.seq

    def take(self, token: int, vocabulary: Vocabulary) -> None:
        """Add a drawn token; sets `end` where the segment ends with it."""
        self.token_ids.append(token)
        known = vocabulary[token]
        if known.ends:
            self.finish(End.EOG)
            self.char_ends.append(len(self.text))
            return
        if known.text is not None and not self.waiting:
            piece = known.text
        else:
            piece, self.waiting = decode_utf8(self.waiting, known.piece)
        n_before = len(self.text)
        self.text += piece
        self.char_ends.append(len(self.text))
        if self.scanner.stops:
            self.scanner, hit = self.scanner.feed(piece)
            if hit is not None:
                start = n_before + hit
                self.text = self.text[: max(0, start)]
                self.n_backtrack = max(0, -start)
                self.waiting = b""
                self.end = End.STOP_STRING
                return
        if self.boundary.ends_after(len(self.token_ids), self.text):
            self.end = End.BOUNDARY
        elif len(self.token_ids) >= self.room:
            self.finish(End.CONTEXT)

    def finish(self, end: End) -> None:
        """End here; where the text of the answer ends, an unfinished character becomes U+FFFD."""
        self.end = end
        if end in (End.EOG, End.CONTEXT):
            self.text += flush_utf8(self.waiting)
            self.waiting = b""

    def proposal(self) -> Proposal:
        """The record of this branch. It has ended."""
        if self.end is None:
            raise ValueError(f"branch {self.handle} has not ended")
        return Proposal(
            self.handle,
            tuple(self.token_ids),
            self.text,
            self.end,
            self.n_backtrack,
            tuple(self.logprobs),
        )
