"""Keys and values of what a prompt's texts have in common, so that only new tokens are read.

    text     = prompt + accepted prefix + segment + the template's end
    trunk    = the longest common token prefix of a round's texts, kept and shared by all of them
    branches = what one text's own tokens made, its end left out, until the next round shows
               which of them the texts have in common: that one grows the trunk

Tokens may merge across a border where text was joined, so everything is compared by token ids:
a trunk that the texts leave is cut to where they leave it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stars_local.reward.session import Session
from stars_local.reward.templates import pad_right

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Batches = Callable[[Sequence[Sequence[int]], int], Iterator[list[int]]]
"""(rows, tokens before them) to the places of the rows that run together."""

MAX_BYTES = 512 << 20
_MAX_BRANCHES = 32  # of one trunk, over several rounds of attempts
_MIN_ALONE = 8  # fewer common tokens are read with every row: a run of their own costs more


@dataclass
class _Branch:
    """Tokens after a trunk, and their keys and values: arrays of shape (tokens, heads, width)."""

    tokens: Sequence[int]
    made: list[Any]


@dataclass
class _Trunk:
    """Tokens, buffers whose first len(tokens) rows are theirs, and branches that start there."""

    buffers: list[Any]
    tokens: list[int] = field(default_factory=list)
    branches: list[_Branch] = field(default_factory=list)

    @property
    def past(self) -> list[Any]:
        return [each[: len(self.tokens)] for each in self.buffers]

    @property
    def n_bytes(self) -> int:
        arrays = [*self.buffers, *(each for branch in self.branches for each in branch.made)]
        return sum(int(each.nbytes) for each in arrays)

    def follow(self, shared: Sequence[int]) -> None:
        """Cut to what `shared` begins with, or grow along the branch that it follows longest."""
        n = common(self.tokens, shared)
        if n < len(self.tokens):
            del self.tokens[n:]
            self.branches = []
            return
        rest = shared[n:]
        lengths = [common(branch.tokens, rest) for branch in self.branches]
        if lengths and max(lengths) > 0:
            longest = max(lengths)
            branch = self.branches[lengths.index(longest)]
            self.grow(rest[:longest], [each[:longest] for each in branch.made])

    def grow(self, tokens: Sequence[int], made: Sequence[Any]) -> None:
        """Append tokens with their keys and values; branches start elsewhere, so they go."""
        import numpy as np

        start, end = len(self.tokens), len(self.tokens) + len(tokens)
        for i, new in enumerate(made):
            buffer = self.buffers[i]
            if end > len(buffer):  # at twice the length, so that each row is copied about once
                larger = np.empty((max(end, 2 * len(buffer)), *buffer.shape[1:]), buffer.dtype)
                larger[:start] = buffer[:start]
                self.buffers[i] = buffer = larger
            buffer[start:end] = new
        self.tokens += tokens
        self.branches = []


class PrefixCache:
    """Scores texts by reading what is new in them; threads take turns.

    Keeps the last prompts' trunks and branches in at most `max_bytes`. After an error the
    prompt that was being scored is forgotten.
    """

    def __init__(self, session: Session, pad_id: int, max_bytes: int = MAX_BYTES) -> None:
        self._session = session
        self._pad_id = pad_id
        self._max_bytes = max_bytes
        self._trunks: OrderedDict[Hashable, _Trunk] = OrderedDict()
        self._lock = threading.Lock()
        self.n_read = 0

    @property
    def n_bytes(self) -> int:
        """What is kept now."""
        return sum(trunk.n_bytes for trunk in self._trunks.values())

    def kept(self, key: Hashable) -> list[int]:
        """The tokens of a prompt's trunk, none where it is not kept."""
        return list(self._trunks[key].tokens) if key in self._trunks else []

    def score(
        self, key: Hashable, rows: Sequence[Sequence[int]], n_tail: int, batches: Batches
    ) -> tuple[NDArray[np.float32], int]:
        """Raw outputs of shape (len(rows), n_outputs), and the number of runs they took.

        rows: token ids of one prompt's texts, of which the last n_tail are the template's end.
        `n_read` counts the tokens that the network has read, padding left out.
        """
        with self._lock:
            trunk = self._trunks.pop(key, None)
            if trunk is None:
                trunk = _Trunk(self._session.no_past())
            scored = self._score(trunk, rows, n_tail, batches)
            self._trunks[key] = trunk
            while self._trunks and self.n_bytes > self._max_bytes:
                self._trunks.popitem(last=False)
            return scored

    def _score(
        self, trunk: _Trunk, rows: Sequence[Sequence[int]], n_tail: int, batches: Batches
    ) -> tuple[NDArray[np.float32], int]:
        import numpy as np

        # The end stays out of the trunk, and a row needs a token of its own to be read at
        room = max(0, min(len(row) - max(1, n_tail) for row in rows))
        shared = list(rows[0][:room])
        for row in rows[1:]:
            del shared[common(shared, row) :]
        trunk.follow(shared)
        n_runs = 0
        ahead = shared[len(trunk.tokens) :]
        if len(rows) > 1 and len(ahead) >= _MIN_ALONE:
            _, new = self._run(trunk, [ahead])
            trunk.grow(ahead, [each[0] for each in new])
            n_runs += 1
        start = len(trunk.tokens)
        rests = [row[start:] for row in rows]
        found: dict[int, Any] = {}
        for places in batches(rests, start):
            outputs, new = self._run(trunk, [rests[place] for place in places])
            n_runs += 1
            for i, place in enumerate(places):
                found[place] = outputs[i]
                own = rests[place][: max(0, len(rests[place]) - n_tail)]
                made = [each[i, : len(own)].copy() for each in new]
                trunk.branches = [*trunk.branches, _Branch(own, made)][-_MAX_BRANCHES:]
        return np.stack([found[place] for place in range(len(rows))]), n_runs

    def _run(self, trunk: _Trunk, rows: Sequence[Sequence[int]]) -> tuple[Any, list[Any]]:
        self.n_read += sum(map(len, rows))
        return self._session.run_on(trunk.past, *pad_right(rows, self._pad_id))


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return i
    return min(len(left), len(right))
