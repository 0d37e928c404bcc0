"""What of a session's file is believed.

A file may come from anyone. Its texts are given to a model as text, but an answer's tokens would
be taken as they are, and a control token among them ends the answer and forges the turns behind.
So the tokens that come from a file are held against the text that a person sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stars_local.chat.conversation import Conversation


class KnowsTokens(Protocol):
    """A language model that can say whether tokens are a text and nothing else."""

    def says(self, token_ids: Sequence[int], text: str) -> bool:
        """Whether the tokens are this text's, without control tokens inside."""
        ...


def doubt_forged(conversation: Conversation, sha256: str, model: KnowsTokens) -> int:
    """Mark the answers whose tokens are not their text; returns how many there are.

    sha256: of the model's file; answers drawn with another have no say in tokens anyway. A
    marked answer is read anew, as text.
    """
    n_doubted = 0
    for turn in conversation.turns:
        ids = turn.token_ids if turn.kept and turn.sha256 == sha256 else None
        turn.is_doubted = ids is not None and not model.says(ids, turn.text)
        n_doubted += turn.is_doubted
    return n_doubted
