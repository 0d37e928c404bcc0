"""Where a segment ends, and where an answer ends at a stop string.

Boundary rules look at one drawn token at a time and keep no state beyond the segment:

    fixed     after max_tokens
    sentence  after a token that completes a sentence (. ! ? or a newline), within
              [min_tokens, max_tokens]
    entropy   before a token whose next-token distribution has an entropy of at least
              `entropy_threshold` nats (CARDS, arXiv 2406.16306), within the same bounds

Every rule also ends with the text: end-of-generation token, stop string, context.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_CLOSERS = "\"')]}*_”’»"


class BoundaryKind(StrEnum):
    """The names of the boundary rules."""

    FIXED = "fixed"
    SENTENCE = "sentence"
    ENTROPY = "entropy"


@dataclass(frozen=True, slots=True)
class Boundary:
    """A boundary rule. 1 <= min_tokens <= max_tokens; the threshold is in nats."""

    max_tokens: int
    kind: BoundaryKind = BoundaryKind.FIXED
    min_tokens: int = 1
    entropy_threshold: float = 0.0

    @property
    def needs_entropy(self) -> bool:
        """Whether `ends_before` must be asked, with an entropy, before each token."""
        return self.kind is BoundaryKind.ENTROPY

    def ends_after(self, n_tokens: int, text: str) -> bool:
        """Whether a segment of `n_tokens` whose characters are `text` is complete."""
        if n_tokens >= self.max_tokens:
            return True
        if self.kind is not BoundaryKind.SENTENCE or n_tokens < self.min_tokens:
            return False
        return completes_sentence(text)

    def ends_before(self, n_tokens: int, entropy: float) -> bool:
        """Whether a segment of `n_tokens` ends because the next token is this uncertain."""
        return (
            self.kind is BoundaryKind.ENTROPY
            and n_tokens >= self.min_tokens
            and entropy >= self.entropy_threshold
        )

    def shortened(self, max_tokens: int) -> Boundary:
        """The same rule with at most `max_tokens` tokens."""
        if max_tokens >= self.max_tokens:
            return self
        return Boundary(
            max_tokens, self.kind, min(self.min_tokens, max_tokens), self.entropy_threshold
        )


def completes_sentence(text: str) -> bool:
    """Whether text ends with a newline, or with sentence-final punctuation and closers."""
    if text.endswith("\n"):
        return True
    bare = text.rstrip(" \t").rstrip(_CLOSERS)
    return bare.endswith((".", "!", "?", "…", "。", "！", "？"))


@dataclass(frozen=True, slots=True)
class StopScanner:
    """Finds stop strings in text that arrives in pieces; immutable, so branches share it.

    `tail` is the end of the text seen so far, as long as a stop string could still begin in.
    """

    stops: tuple[str, ...]
    tail: str = ""

    def feed(self, text: str) -> tuple[StopScanner, int | None]:
        """Take more text; returns the next scanner, and on a hit where the first stop string
        begins, counted from the start of `text` (negative: in the text before it)."""
        if not self.stops:
            return self, None
        window = self.tail + text
        hits = [at for at in (window.find(stop) for stop in self.stops) if at >= 0]
        keep = max(len(stop) for stop in self.stops) - 1
        following = StopScanner(self.stops, window[max(0, len(window) - keep) :])
        if not hits:
            return following, None
        return following, min(hits) - len(self.tail)


def held_back(text: str, stops: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest
