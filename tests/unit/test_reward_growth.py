"""Tokenizers whose steps could make texts too long are refused before they are loaded."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from stars_local.core.errors import RewardError
from stars_local.reward.templates import load_tokenizer
from stars_local.reward.text_growth import MAX_GROWTH, check_growth
from tests.support.tiny_reward import tiny_tokenizer

BARE = {**json.loads(tiny_tokenizer().to_str()), "normalizer": None, "pre_tokenizer": None}
WORDS = st.text("aeé三", max_size=4)
REPLACING = st.fixed_dictionaries(
    {
        "type": st.just("Replace"),
        "pattern": st.builds(lambda old: {"String": old}, WORDS.filter(len))
        | st.just({"Regex": "a|三+"}),
        "content": WORDS,
    }
)
MAPPING = st.sampled_from(
    [{"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "ByteLevel")]
    + [
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": False}
        | {"strip_accents": False, "lowercase": True}
    ]
)
STEPS = st.lists(REPLACING | MAPPING, max_size=5)


def charsmap(*texts: str) -> str:
    """A table of letters with an empty trie of one unit."""
    written = b"".join(text.encode() + b"\0" for text in texts)
    return base64.b64encode((4).to_bytes(4, "little") + bytes(4) + written).decode()


def normalizing(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {**BARE, "normalizer": {"type": "Sequence", "normalizers": steps}}


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, text=st.text("aeéA三İǄﷺ", min_size=1, max_size=20))
def test_what_is_taken_grows_no_text_over_the_bound(
    steps: list[dict[str, Any]], text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.getbasetemp() / "growth.json", normalizing(steps))
    try:
        check_growth(path)
    except RewardError:
        return
    normalizer = Tokenizer.from_file(str(path)).normalizer
    grown = text if normalizer is None else normalizer.normalize_str(text)
    assert len(grown.encode()) <= MAX_GROWTH * (len(text.encode()) + 1)


@pytest.mark.parametrize("times", [1.0, 1.5, 2.0, 4.0])
def test_replacing_is_bounded_at_64(tmp_path: Path, times: float) -> None:
    step = {"type": "Replace", "pattern": {"String": "zz"}, "content": "z" * round(2 * times)}
    n_most = 63 if times == 1 else math.floor(math.log(64, times))
    load_tokenizer(written(tmp_path / "t.json", normalizing([step] * n_most)))
    with pytest.raises(RewardError, match="is refused: "):
        load_tokenizer(written(tmp_path / "t.json", normalizing([step] * (n_most + 1))))


def test_known_tokenizers_are_taken(tmp_path: Path) -> None:
    """The steps of Llama's, BERT's and ALBERT's, which has a table of letters besides."""
    arabic = "صلى الله عليه وسلم"
    quotes = {"type": "Replace", "pattern": {"String": "``"}, "content": '"'}
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    to_lines = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    table = {"type": "Precompiled", "precompiled_charsmap": charsmap("a", arabic)}
    known: list[list[dict[str, Any]]] = [
        [{"type": "Prepend", "prepend": "▁"}, to_lines],
        [{"type": "BertNormalizer", "clean_text": True, "lowercase": True}],
        [quotes, {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, table, spaces],
    ]
    for steps in known:
        check_growth(written(tmp_path / "t.json", normalizing(steps)))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"type": "Prepend", "prepend": "é" * 513}], "1026 bytes put before"),
        ([{"type": "Prepend", "prepend": "x" * 600}] * 2, "1200 bytes put before"),
        ([{"precompiled_charsmap": charsmap("a", "b" * 3000)}], "3e\\+03 times as long"),
        ([{"type": "Strip"}] * 70, "71 steps, at most 64"),
        ([{"type": "Replace", "pattern": {"Regex": "b"}, "content": "x" * 64}], "by 65 times"),
    ],
)
def test_refusals_say_what_is_too_much(
    tmp_path: Path, steps: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(RewardError, match=said):
        check_growth(written(tmp_path / "t.json", normalizing(steps)))


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, '{"a": 1, "a": 2}', "\udcff", "1" * 9999]
)
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RewardError, match="cannot read the tokenizer"):
        load_tokenizer(path)
