"""Between text, bytes and token ids.

Tokenising keeps three sources apart: a template's own text may name control tokens, what people
wrote never does, and tokens that were sampled before are taken as they are. Pieces are bytes
and may end inside a UTF-8 character: the rest waits, as a value that branches can share.
"""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stars_local.core.errors import ModelError
from stars_local.llama.library import native
from stars_local.llama.runs import is_special, tokenize_pieces
from stars_local.llama.template import Kept, Piece

_UTF8 = codecs.getincrementaldecoder("utf-8")


def decode_utf8(waiting: bytes, piece: bytes) -> tuple[str, bytes]:
    """Characters that `piece` completes after the `waiting` bytes, and the bytes that wait now.

    At most 3 bytes wait, always the valid beginning of one character. Bytes that can never
    become a character are replaced by U+FFFD.
    """
    decoder = _UTF8("replace")
    text = decoder.decode(waiting + piece)
    return text, decoder.getstate()[0]


def flush_utf8(waiting: bytes) -> str:
    """What becomes of bytes that wait when the text ends: one U+FFFD, or nothing."""
    return waiting.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Token:
    """A token's bytes, its text where it stands for whole characters, and whether it ends.

    Control tokens have no bytes: a model that samples one adds nothing to the text.
    """

    piece: bytes
    text: str | None
    ends: bool


class Vocabulary:
    """The tokens of one model file. `handle` is the native vocabulary, owned by the model."""

    def __init__(self, handle: Any) -> None:
        lib = native()
        self.handle = handle
        self.n_tokens: int = lib.llama_vocab_n_tokens(handle)
        self.bos: int = lib.llama_vocab_bos(handle)
        self.eos: int = lib.llama_vocab_eos(handle)
        self.adds_bos: bool = bool(lib.llama_vocab_get_add_bos(handle))
        self._known: dict[int, Token] = {}
        self._buffer = ctypes.create_string_buffer(256)

    def __getitem__(self, token: int) -> Token:
        """A token's properties, asked of the library once."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._look_up(token)
        return known

    def tokenize(self, text: str, *, control: bool) -> list[int]:
        """Token ids of a text; control tokens are recognised in it only if `control`."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        lib = native()
        for _ in range(2):
            ids = (ctypes.c_int32 * room)()
            n = lib.llama_tokenize(self.handle, raw, len(raw), ids, room, False, control)
            if n >= 0:
                return list(ids[:n])
            room = -n
        raise ModelError(f"a text of {len(raw)} bytes cannot be tokenised: shorten it")

    def encode(self, pieces: Iterable[Piece]) -> list[int]:
        """Token ids of rendered pieces, in order, with one BOS in front if the model wants it.

        The end tokens after kept ones are left out: the template writes how a turn ends.
        """
        checked = (
            Kept(tuple(self._checked(piece.token_ids))) if isinstance(piece, Kept) else piece
            for piece in pieces
        )
        ids = list(tokenize_pieces(checked, self))
        if self.adds_bos and self.bos >= 0 and ids[:1] != [self.bos]:
            ids.insert(0, self.bos)
        return ids

    def says(self, token_ids: Sequence[int], text: str) -> bool:
        """Whether tokens are a text's, with nothing behind it but end tokens.

        False for any other control token, wherever it stands: it has no text of its own, so
        that who writes a file could forge a turn with it inside of an answer.
        """
        kept = list(token_ids)
        if any(not 0 <= token < self.n_tokens for token in kept):
            return False
        while kept and self[kept[-1]].ends:
            kept.pop()
        if any(self[token].ends or is_special(token, self) for token in kept):
            return False
        whole, waiting = decode_utf8(b"", b"".join(self[token].piece for token in kept))
        return text in (whole, whole + flush_utf8(waiting))

    def end_ids(self) -> list[int]:
        """All end-of-generation tokens."""
        is_end = native().llama_vocab_is_eog
        return [token for token in range(self.n_tokens) if is_end(self.handle, token)]

    def attributes(self, token: int) -> int:
        """llama.cpp's attributes of a token, the bits of `llama_token_attr`."""
        return int(native().llama_vocab_get_attr(self.handle, token))

    def special_text(self, token: int) -> str:
        """How a control token is written, for templates; empty for none (a negative id)."""
        return "" if token < 0 else self._render(token, special=True).decode("utf-8", "replace")

    def _checked(self, token_ids: tuple[int, ...]) -> list[int]:
        kept = list(token_ids)
        for token in kept:
            if not 0 <= token < self.n_tokens:
                raise ModelError(
                    f"kept token {token} is not in this model's vocabulary of {self.n_tokens}: "
                    "the conversation was held with another model"
                )
        while kept and self[kept[-1]].ends:
            kept.pop()
        return kept

    def _look_up(self, token: int) -> Token:
        ends = bool(native().llama_vocab_is_eog(self.handle, token))
        piece = b"" if ends else self._render(token, special=False)
        text, waiting = decode_utf8(b"", piece)
        whole = not waiting and text.encode("utf-8") == piece
        return Token(piece, text if whole else None, ends)

    def _render(self, token: int, *, special: bool) -> bytes:
        lib = native()
        n = lib.llama_token_to_piece(
            self.handle, token, self._buffer, len(self._buffer), 0, special
        )
        if n < 0:
            self._buffer = ctypes.create_string_buffer(-n)
            n = lib.llama_token_to_piece(
                self.handle, token, self._buffer, len(self._buffer), 0, special
            )
        return bytes(self._buffer.raw[: max(n, 0)])
