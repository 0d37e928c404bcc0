"""A language model that notes the tokens of an answer when its prompt is closed.

Result.token_ids are all kept tokens; where a stop string took some away, the conversation goes
on with fewer, and only the language model knows which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from stars_local.core.overlap import LooksAhead
from stars_local.core.ports import LanguageModel, Opened, Order
from stars_local.core.records import ModelInfo, Prompt, Proposal, Sampling


@runtime_checkable
class KnowsResponse(Protocol):
    """A language model that can say which tokens of a response remain."""

    def message_ids(self, trunk: int) -> tuple[int, ...] | None:
        """The committed tokens of an open prompt's response, without those taken away; None
        where they are not the whole text."""
        ...


class Noting:
    """Passes everything on to `inner`; `token_ids` are of the prompt closed last, None where
    the model cannot say."""

    def __init__(self, inner: LanguageModel) -> None:
        self._inner = inner
        self.token_ids: tuple[int, ...] | None = None

    @property
    def info(self) -> ModelInfo:
        """As the inner model says."""
        return self._inner.info

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """See `LanguageModel.encode`."""
        return self._inner.encode(prompt)

    def open(self, prompt: Prompt, sampling: Sampling, stop: tuple[str, ...] = ()) -> Opened:
        """See `LanguageModel.open`."""
        self.token_ids = None
        return self._inner.open(prompt, sampling, stop)

    def propose(self, orders: Sequence[Order]) -> list[tuple[Proposal, ...]]:
        """See `LanguageModel.propose`."""
        return self._inner.propose(orders)

    def look_ahead(self, trunk: int) -> None:
        """See `core.overlap.LooksAhead`; nothing where the model does not."""
        if isinstance(self._inner, LooksAhead):
            self._inner.look_ahead(trunk)

    def commit(self, trunk: int, proposal: Proposal) -> None:
        """See `LanguageModel.commit`."""
        self._inner.commit(trunk, proposal)

    def reject(self, trunk: int, proposals: Sequence[Proposal]) -> None:
        """See `LanguageModel.reject`."""
        self._inner.reject(trunk, proposals)

    def close(self, trunk: int, *, keep: bool = False) -> None:
        """Note the tokens, then close."""
        if isinstance(self._inner, KnowsResponse):
            self.token_ids = self._inner.message_ids(trunk)
        self._inner.close(trunk, keep=keep)
