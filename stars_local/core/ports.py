"""The two ports: what a decoding run needs from a language model and from a reward model.

Implementations live in `stars_local.llama` and `stars_local.reward`; weightless ones, for
tests and for trying the API, in `stars_local.core.doubles`. Every implementation passes the
same contract suite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stars_local.core.boundaries import Boundary
from stars_local.core.records import (
    ModelInfo,
    Prompt,
    Proposal,
    RewardInfo,
    Sampling,
    Scores,
)


@dataclass(frozen=True, slots=True)
class Draw:
    """The randomness of one attempt.

    seeds[k] seeds the draws of tokens k * reseed_every up to (k + 1) * reseed_every; the last
    seed serves whatever is left. Each seed lies in [0, 2**32 - 2].
    """

    seeds: tuple[int, ...]
    reseed_every: int


@dataclass(frozen=True, slots=True)
class Order:
    """A wish for `len(draws)` proposals on one open prompt, each ended by `boundary`."""

    trunk: int
    draws: tuple[Draw, ...]
    boundary: Boundary
    should_stop: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """An open prompt: its trunk, its length in tokens, and how many were already cached."""

    trunk: int
    n_prompt_tokens: int
    n_reused_tokens: int = 0


class LanguageModel(Protocol):
    """Draws proposals on open prompts; owns KV cells, sampler state and pending bytes.

    The prompt and the committed text live in a trunk, every proposal in a branch of it.
    """

    @property
    def info(self) -> ModelInfo:
        """Identity of the model file and size of the context."""
        ...

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """The token ids that `open` would prefill for a prompt, be they more than fit."""
        ...

    def open(self, prompt: Prompt, sampling: Sampling, stop: tuple[str, ...] = ()) -> Opened:
        """Prefill a prompt and return its trunk.

        A trunk closed with `keep` is reused up to the longest common prefix of token ids.
        Raises PromptTooLongError if no token could follow, OutOfCellsError if there is no room
        at present, GrammarError; the model is unchanged after any of them.
        """
        ...

    def propose(self, orders: Sequence[Order]) -> list[tuple[Proposal, ...]]:
        """Draw the proposals of all orders together; one tuple an order, in its draws' order.

        An order may get fewer proposals than it has draws (the first ones) where sequences or
        cells are short, but at least one. A proposal whose order's `should_stop` came true
        ends as `End.HALTED`. Raises OutOfCellsError, before any decoding, if not even one fits.
        """
        ...

    def commit(self, trunk: int, proposal: Proposal) -> None:
        """Make a proposal part of its trunk; every other proposal of the trunk is dropped."""
        ...

    def reject(self, trunk: int, proposals: Sequence[Proposal]) -> None:
        """Drop these proposals; the trunk and its other proposals stay."""
        ...

    def close(self, trunk: int, *, keep: bool = False) -> None:
        """Forget an open prompt and its proposals; with `keep` its cells stay for reuse."""
        ...


class RewardModel(Protocol):
    """Scores cumulative responses."""

    @property
    def info(self) -> RewardInfo:
        """Identity, steered axis and limits of the reward model."""
        ...

    @property
    def batch_invariant(self) -> bool:
        """Whether a text's score provably does not depend on its neighbours in a batch."""
        ...

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Scores:
        """Score (prompt, response so far) pairs; rewards come back in the same order.

        The response may be empty, which gives r(x, ""). Raises RewardValueError on NaN or
        infinity, RewardError if the model fails; nothing is kept between calls but caches.
        """
        ...
