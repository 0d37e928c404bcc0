"""Text, characters and stop strings of proposals, without a model."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.boundaries import Boundary, BoundaryKind, StopScanner
from stars_local.core.records import End
from stars_local.llama.branches import Branch, Trunk
from stars_local.llama.tokens import Token, decode_utf8, flush_utf8

EOG = 256
WIDE = 257


class Bytes:
    """A vocabulary of one token a byte, an end token, and one of two characters."""

    def __getitem__(self, token: int) -> Token:
        if token == EOG:
            return Token(b"", "", True)
        if token == WIDE:
            return Token(b"a<", "a<", False)
        piece = bytes([token])
        return Token(piece, piece.decode() if token < 128 else None, False)


class NoChain:
    """A sampler chain that nobody asks anything."""

    def give_to(self, trunk: object) -> None:
        """Nothing to hand over."""


def trunk(stops: tuple[str, ...] = ()) -> Trunk:
    """An open prompt of 10 tokens, all decoded."""
    return Trunk(
        1, [0] * 10, 10, cast(Any, NoChain()), StopScanner(stops), False, seq=0, n_decoded=10
    )


def draw(
    on: Trunk, tokens: bytes | list[int], boundary: Boundary | None = None, room: int = 1000
) -> Branch:
    """A branch that drew these tokens, or as many as it took to end."""
    rule = Boundary(len(tokens)) if boundary is None else boundary
    branch = Branch(2, on, cast(Any, NoChain()), rule, room, on.scanner, on.waiting, seq=1)
    for token in tokens:
        branch.take(token, cast(Any, Bytes()))
        branch.n_decoded = len(branch.token_ids) - 1
        if branch.end is not None:
            break
    return branch


@given(st.text(), st.data())
def test_characters_survive_any_cut(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    found, waiting = "", b""
    for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        piece, waiting = decode_utf8(waiting, raw[start:stop])
        assert len(waiting) <= 3
        assert "\ufffd" not in piece or "\ufffd" in text
        found += piece
    assert (found, waiting) == (text, b"")


@given(st.lists(st.binary(max_size=4), max_size=12))
def test_any_bytes_give_what_they_give_at_once(pieces: list[bytes]) -> None:
    found, waiting = "", b""
    for raw in pieces:
        piece, waiting = decode_utf8(waiting, raw)
        found += piece
    assert found + flush_utf8(waiting) == b"".join(pieces).decode("utf-8", "replace")


def test_bytes_of_an_unfinished_character_wait_in_the_branch() -> None:
    prompt = trunk()
    first = draw(prompt, "aé".encode()[:2])
    assert (first.text, first.waiting, first.end) == ("a", b"\xc3", End.BOUNDARY)
    other = draw(prompt, b"xy")
    assert (other.text, other.waiting) == ("xy", b"")
    prompt.absorb(first)
    second = draw(prompt, "é!".encode()[1:])
    assert (second.text, second.waiting) == ("é!", b"")


def test_an_unfinished_character_is_replaced_where_the_text_ends() -> None:
    prompt = trunk()
    ended = draw(prompt, [ord("a"), 0xC3, EOG], Boundary(9))
    assert (ended.text, ended.end, ended.waiting) == ("a\ufffd", End.EOG, b"")
    full = draw(prompt, [ord("a"), 0xC3], Boundary(9), room=2)
    assert (full.text, full.end) == ("a\ufffd", End.CONTEXT)


def test_a_segment_may_have_no_character_and_an_end_may_come_at_once() -> None:
    prompt = trunk()
    part = draw(prompt, "é".encode()[:1])
    assert (part.text, part.proposal().n_tokens) == ("", 1)
    end = draw(prompt, [EOG], Boundary(4)).proposal()
    assert (end.text, end.token_ids, end.end) == ("", (EOG,), End.EOG)


def test_rules_decide_before_the_context_does() -> None:
    prompt = trunk()
    assert draw(prompt, b"abc", Boundary(3), room=3).end is End.BOUNDARY
    assert draw(prompt, b"abc", Boundary(4), room=3).end is End.CONTEXT
    sentence = Boundary(9, BoundaryKind.SENTENCE, min_tokens=2)
    assert draw(prompt, b".a.bcdefgh", sentence).text == ".a."


def test_a_stop_string_is_cut_out_of_text_and_tokens() -> None:
    prompt = trunk(("END",))
    first = draw(prompt, b"some EN")
    assert (first.end, first.text) == (End.BOUNDARY, "some EN")
    prompt.absorb(first)
    assert (prompt.n_chars, prompt.n_pending) == (7, 1)
    prompt.n_decoded += 1  # as the next round would
    second = draw(prompt, b"D of it", Boundary(9))
    assert (second.end, second.text, second.n_backtrack) == (End.STOP_STRING, "", 2)
    assert second.proposal().extend("some EN") == "some "
    prompt.absorb(second)
    assert bytes(prompt.response_ids) == b"some "
    assert prompt.n_decoded == 10 + 7  # the cache still has what its owner must cut now
    assert prompt.n_chars == 5


def test_a_stop_string_within_a_segment_keeps_what_stands_before_it() -> None:
    prompt = trunk(("<>", "never"))
    branch = draw(prompt, b"abc<>def", Boundary(20))
    assert (branch.text, branch.n_backtrack, len(branch.token_ids)) == ("abc", 0, 5)
    prompt.absorb(branch)
    assert bytes(prompt.response_ids) == b"abc"


def test_it_is_known_when_a_stop_string_begins_inside_a_token() -> None:
    for stop, tokens, text, splits in (
        ("<>", [*b"ab<>"], "ab", False),
        ("<>", [*b"ab", WIDE, *b">"], "aba", True),
        ("a<", [*b"ab", WIDE], "ab", False),
        ("<", [WIDE], "a", True),
    ):
        prompt = trunk((stop,))
        branch = draw(prompt, tokens, Boundary(20))
        prompt.absorb(branch)
        assert (branch.end, branch.text) == (End.STOP_STRING, text)
        assert prompt.splits_token is splits


@given(st.binary(min_size=1, max_size=30), st.integers(1, 29), st.integers(1, 4))
def test_stop_strings_cut_alike_however_segments_fall(raw: bytes, at: int, size: int) -> None:
    raw = bytes(byte % 128 for byte in raw)
    whole = raw.decode()
    stop = whole[at % len(whole) :][:size]
    for length in (1, 2, 5, 100):
        prompt, response, left = trunk((stop,)), "", raw
        while left:
            branch = draw(prompt, left, Boundary(length))
            response = branch.proposal().extend(response)
            left = left[len(branch.token_ids) :]
            prompt.absorb(branch)
            if branch.end is End.STOP_STRING:
                break
        assert branch.end is End.STOP_STRING
        assert response == whole[: whole.index(stop)]
        assert bytes(prompt.response_ids).decode() == response
