from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.errors import DataError, UsageError
from stars_local.core.files import sha256_of
from stars_local.preferences.leaks import drop_leaks, normalise, pair_texts, texts_of_files
from stars_local.preferences.pairs import Pair
from stars_local.preferences.sources import SourceSpec, load_sources


def pair(prompt: str, chosen: str, rejected: str, source: str = "s") -> Pair:
    return Pair((("user", prompt),), chosen, rejected, "harmless", source, 1)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def dialogue(*contents: str) -> str:
    labels = ("Human", "Assistant")
    return "".join(f"\n\n{labels[i % 2]}: {text}" for i, text in enumerate(contents))


@given(st.text(max_size=30))
def test_normalising_is_blind_to_case_spaces_and_punctuation(text: str) -> None:
    noisy = " ,".join(text.upper()) + "!\n"
    assert normalise(normalise(text)) == normalise(text)
    if text.isascii():
        assert normalise(noisy) == normalise(text)


def test_every_text_of_a_test_file_is_known(tmp_path: Path) -> None:
    row = {"chosen": dialogue("Hi", "Yes?", "Why?", "So."), "rejected": dialogue("Hi", "No.")}
    found = texts_of_files(
        [
            write(tmp_path / "hh", json.dumps(row) + "\n"),
            write(tmp_path / "sst", "1 a fine film .\n0 dull\n"),
            write(tmp_path / "list", json.dumps([{"turns": ["First?", "Second?"], "id": "81"}])),
        ]
    )
    for text in (
        "So.",
        "no",
        "hi yes why so",
        "A fine film",
        "dull!",
        "FIRST",
        "second",
        "hiyeswhy",
    ):
        assert normalise(text) in found
    assert "1" not in found
    assert "81" not in found
    assert "" not in found


@pytest.mark.parametrize(
    "leaking",
    [
        pair("new question", "The TESTED answer", "other"),
        pair("new question", "other", "the tested answer!"),
        pair("the tested question", "other", "another"),
    ],
)
def test_a_pair_with_a_tested_text_is_dropped_and_counted(leaking: Pair) -> None:
    tested = {normalise("the tested answer"), normalise("the tested question")}
    clean = pair("new question", "other", "another")
    kept, dropped = drop_leaks([clean, leaking, clean], tested)
    assert kept == [clean, clean]
    assert dropped == {"s": 1}


words = st.lists(st.sampled_from(["ay", "bee", "cee", "dee"]), min_size=1, max_size=2).map(" ".join)


@given(st.lists(st.tuples(words, words, words), max_size=12), st.sets(words, max_size=4))
def test_no_kept_pair_holds_a_tested_text(
    rows: list[tuple[str, str, str]], tested: set[str]
) -> None:
    normal = {normalise(text) for text in tested}
    kept, dropped = drop_leaks([pair(*row) for row in rows], normal)
    assert len(kept) + dropped.total() == len(rows)
    for one in kept:
        assert normal.isdisjoint(pair_texts(one))
        assert one.chosen not in tested
        assert one.rejected not in tested


def test_loading_sources_drops_tested_rows_of_any_source(tmp_path: Path) -> None:
    hh = write(
        tmp_path / "hh",
        "".join(
            json.dumps({"chosen": dialogue(q, a), "rejected": dialogue(q, b)}) + "\n"
            for q, a, b in [
                ("q1", "fine one", "bad one"),
                ("q2", "It was DULL.", "bad two"),
                ("q3", "same", "same"),
                ("q4", "fine four", "bad four"),
            ]
        ),
    )
    texts = write(tmp_path / "films", "1 a fine film\n1 lovely\n0 it was dull\n0 sad\n")
    tested = write(tmp_path / "test", "0 it was dull\n1 a, fine film !\n")
    specs = [
        SourceSpec.parse(f"harmless={hh},licence=MIT,name=hh"),
        SourceSpec.parse(f"sentiment={texts},licence=MIT,name=films"),
    ]
    data = load_sources(specs, [tested], seed=0)
    assert {(p.chosen, p.rejected) for p in data.pairs} == {
        ("fine one", "bad one"),
        ("fine four", "bad four"),
        ("lovely", "sad"),
    }
    by_name = {source["name"]: source for source in data.sources}
    assert by_name["hh"]["pairs_read"] == 4
    assert by_name["hh"]["pairs_in_test_files_dropped"] == 1
    assert by_name["hh"]["pairs_equal_dropped"] == 1
    assert by_name["hh"]["pairs_used"] == 2
    assert by_name["films"]["labelled_rows_in_test_files_dropped"] == 2
    assert by_name["films"]["sha256"] == sha256_of(texts)
    assert [entry["sha256"] for entry in data.test_files] == [sha256_of(tested)]


def test_a_source_with_nothing_left_and_doubled_names_are_refused(tmp_path: Path) -> None:
    texts = write(tmp_path / "films", "1 good\n0 bad\n")
    spec = SourceSpec.parse(f"sentiment={texts},licence=MIT")
    with pytest.raises(DataError, match="no pair is left"):
        load_sources([spec], [texts], seed=0)
    with pytest.raises(UsageError, match="two --data sources are called"):
        load_sources([spec, spec], [], seed=0)


def test_unique_uses_a_repeated_pair_once(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    rows = [row, row, row | {"prompt": "p"}, row]
    path = write(tmp_path / "x", "".join(json.dumps(one) + "\n" for one in rows))
    for option, used in (("", 4), (",unique=no", 4), (",unique=yes", 2)):
        data = load_sources([SourceSpec.parse(f"a={path},licence=MIT{option}")], [], seed=0)
        [source] = data.sources
        assert len(data.pairs) == source["pairs_used"] == used
        assert source["pairs_repeated_dropped"] == 4 - used


def test_max_rows_draws_by_the_seed(tmp_path: Path) -> None:
    texts = write(tmp_path / "films", "".join(f"{i % 2} text {i}\n" for i in range(40)))
    spec = SourceSpec.parse(f"sentiment={texts},licence=MIT,max_rows=5")
    draws = [load_sources([spec], [], seed=seed).pairs for seed in (1, 1, 2)]
    assert [len(draw) for draw in draws] == [5, 5, 5]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just-a-path", "expected AXIS=PATH"),
        ("a=p", "add licence=NAME"),
        ("a=p,licence=MIT,colour=red", "'colour=red' is not one of"),
        ("a=p,licence=MIT,max_rows=0", "max_rows must be a whole number"),
        ("a=p,licence=MIT,unique=maybe", "unique must be yes or no"),
        ("a=p,licence=MIT,where=source", "where needs COLUMN:VALUE"),
    ],
)
def test_a_bad_specification_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SourceSpec.parse(text)


@pytest.mark.parametrize(
    ("licence", "permissive"),
    [("MIT", True), ("CC BY 4.0", True), ("CC BY-NC 4.0", False), ("research use", False)],
)
def test_non_commercial_licences_are_recognised(licence: str, permissive: bool) -> None:
    assert SourceSpec.parse(f"a=p,licence={licence}").is_permissive is permissive
