"""Token ids of rendered pieces: faithful to the whole text, and closed to forged turns."""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import llama_cpp as llama
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stars_local.core.errors import ModelError
from stars_local.core.records import Message, Prompt
from stars_local.llama.runs import CONTROL, RSTRIP, USER_DEFINED, tokenize_pieces
from stars_local.llama.template import Control, Kept, Plain, render
from stars_local.llama.tokens import Vocabulary
from tests.support.tiny_gguf import CHATML, SPECIAL, vocabulary, write_tiny
from tests.unit.chat_templates import GEMMA, LLAMA2, MISTRAL

END, START = vocabulary().index(SPECIAL[2]), vocabulary().index(SPECIAL[1])

TURN_TOKENS = [gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED]


@pytest.fixture(scope="module", params=TURN_TOKENS, ids=["control", "user-defined"])
def tokens(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Vocabulary]:
    path = tmp_path_factory.mktemp("runs") / "tiny.gguf"
    write_tiny(path, "llama", turn_token_type=request.param)
    params = llama.llama_model_default_params()
    params.vocab_only = True
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    yield Vocabulary(llama.llama_model_get_vocab(model))
    llama.llama_model_free(model)


def turns(*contents: str) -> Prompt:
    roles = ("user", "assistant") * len(contents)
    return Prompt("p", tuple(map(Message, roles, contents)))


@pytest.mark.parametrize("template", [CHATML, LLAMA2, GEMMA, MISTRAL])
@settings(max_examples=60, deadline=None)
@given(contents=st.lists(st.text("hello tin\né日.", max_size=20), min_size=3, max_size=3))
def test_pieces_have_the_ids_of_the_whole_text(
    template: str, contents: list[str], tokens: Vocabulary
) -> None:
    pieces = render(turns(*contents), template, bos=SPECIAL[0], eos=SPECIAL[2])
    whole = "".join(piece.text for piece in pieces if not isinstance(piece, Kept))
    assert list(tokenize_pieces(pieces, tokens)) == tokens.tokenize(whole, control=True)


def test_words_are_found_across_the_border_of_pieces(tokens: Vocabulary) -> None:
    pieces = render(turns("the hello"), MISTRAL, bos="", eos="")
    words = [tokens[token].piece for token in tokenize_pieces(pieces, tokens)]
    assert b" the" in words


hostile = st.lists(
    st.sampled_from([*SPECIAL, "<|im_", "start|>", "<", "\n", "system", "hi"]), max_size=8
).map("".join)


@settings(max_examples=150, deadline=None)
@given(first=hostile, last=hostile)
def test_typed_text_becomes_no_special_token(first: str, last: str, tokens: Vocabulary) -> None:
    pieces = render(turns(first, "fine", last), CHATML, bos="", eos="")
    ids = list(tokenize_pieces(pieces, tokens))
    assert (ids.count(START), ids.count(END)) == (4, 3)
    assert vocabulary().index(SPECIAL[0]) not in ids
    told = b"".join(tokens[token].piece for token in ids).decode()
    assert first.strip() in told.replace("\x00", "") or not first.strip()


def test_a_special_token_is_not_made_of_two_pieces(tokens: Vocabulary) -> None:
    ids = list(tokenize_pieces([Control("<|im_"), Plain("start|>")], tokens))
    assert START not in ids
    assert b"".join(tokens[token].piece for token in ids) == SPECIAL[1].encode()


def test_many_forged_tokens_take_no_long_time(tokens: Vocabulary) -> None:
    text = SPECIAL[1] * 20_000
    ids = list(tokenize_pieces([Plain(text)], tokens))
    assert START not in ids and len(ids) >= 20_000


def test_kept_ids_are_passed_on(tokens: Vocabulary) -> None:
    pieces = [Control("a" + SPECIAL[1]), Kept((1, 2, START)), Plain("hello")]
    ids = list(tokenize_pieces(pieces, tokens))
    assert ids[1:5] == [START, 1, 2, START]
    assert [tokens[token].piece for token in (ids[0], *ids[5:])] == [b"a", b"hello"]


class _Letters:
    """A tokenizer of letters, with `#` a special token of given attributes."""

    def __init__(self, attributes: int, written: str = "#") -> None:
        self._attributes, self._written = attributes, written

    def tokenize(self, text: str, *, control: bool) -> list[int]:
        return [ord(c) for c in text]

    def attributes(self, token: int) -> int:
        return self._attributes if token == ord("#") else 0

    def special_text(self, token: int) -> str:
        return self._written


def test_a_token_takes_the_space_that_its_attributes_say() -> None:
    ids = tokenize_pieces([Control("a #  \n b"), Plain(" c")], _Letters(CONTROL | RSTRIP))
    assert "".join(map(chr, ids)) == "a #b c"


def test_single_user_defined_characters_are_text() -> None:
    ids = tokenize_pieces([Plain("a#b")], _Letters(USER_DEFINED))
    assert "".join(map(chr, ids)) == "a#b"


def test_a_vocabulary_that_cannot_be_told_from_text_is_refused() -> None:
    with pytest.raises(ModelError, match="finds '<turn>' in a text without it"):
        list(tokenize_pieces([Plain("a#b")], _Letters(USER_DEFINED, "<turn>")))
