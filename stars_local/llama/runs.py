"""From rendered pieces to token ids, the same ids that the whole text would have.

A tokenizer sees words across the borders of pieces: in "[INST] " + "hello" it finds " hello".
So text is not tokenised piece by piece but run by run, from one of the template's special
tokens to the next, and always as plain text. What people wrote can become no special token:
control tokens are not looked for in a run, and tokens that llama.cpp finds in any text
("user-defined", as some files mark their turn tokens) are broken up where they are found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from stars_local.core.errors import ModelError
from stars_local.llama.template import Control, Kept, Piece

# The attributes of tokens, as llama.h numbers them.
UNKNOWN, CONTROL, USER_DEFINED, LSTRIP, RSTRIP = 1 << 0, 1 << 3, 1 << 4, 1 << 7, 1 << 8


class Tokenizer(Protocol):
    """What is needed of a vocabulary."""

    def tokenize(self, text: str, *, control: bool) -> list[int]:
        """Token ids; control tokens are recognised only if `control`."""
        ...

    def attributes(self, token: int) -> int:
        """llama.cpp's attributes of a token."""
        ...

    def special_text(self, token: int) -> str:
        """How a special token is written."""
        ...


def tokenize_pieces(pieces: Iterable[Piece], tokenizer: Tokenizer) -> Iterator[int]:
    """Token ids of the pieces in order. Kept ids are passed on as they are.

    Raises ModelError for a vocabulary whose special tokens cannot be told from text.
    """
    run = ""
    for piece in pieces:
        if isinstance(piece, Kept):
            yield from _text_ids(run, tokenizer)
            yield from piece.token_ids
            run = ""
        elif isinstance(piece, Control):
            rest = piece.text
            for token in tokenizer.tokenize(piece.text, control=True):
                if not is_special(token, tokenizer):
                    continue
                before, after = _parted(rest, token, tokenizer)
                yield from _text_ids(run + before, tokenizer)
                yield token
                run, rest = "", after
            run += rest
        else:
            run += piece.text
    yield from _text_ids(run, tokenizer)


def is_special(token: int, tokenizer: Tokenizer) -> bool:
    """Whether a token means more than its text: no plain text may become one."""
    attributes = tokenizer.attributes(token)
    if attributes & USER_DEFINED:  # white space and single characters of this kind mark nothing
        return len(tokenizer.special_text(token).strip()) > 1
    return bool(attributes & (CONTROL | UNKNOWN))


def _parted(text: str, token: int, tokenizer: Tokenizer) -> tuple[str, str]:
    """The text before and after a token, without the white space that the token takes."""
    written = tokenizer.special_text(token)
    before, found, after = text.partition(written)
    if not found:
        raise ModelError(
            f"the model's vocabulary finds {written[:40]!r} in a text without it: "
            "use another model file"
        )
    attributes = tokenizer.attributes(token)
    before = before.rstrip() if attributes & LSTRIP else before
    return before, after.lstrip() if attributes & RSTRIP else after


def _text_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of plain text, with special tokens in it broken up after their first character."""
    ids: list[int] = []
    waiting = [text] if text else []
    while waiting:
        part = waiting.pop()
        found = tokenizer.tokenize(part, control=False)
        special = next((token for token in found if is_special(token, tokenizer)), None)
        if special is None:
            ids += found
            continue
        _parted(part, special, tokenizer)
        written = tokenizer.special_text(special)
        first, *others = part.split(written)
        broken = [first, *(written[1:] + other for other in others)]
        broken[:-1] = [piece + written[0] for piece in broken[:-1]]
        waiting.extend(reversed(broken))
    return ids
