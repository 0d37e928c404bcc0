from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.errors import DataError
from stars_local.preferences.pairs import Pair, parse_dialogue, read_pairs
from stars_local.preferences.records import read_records

HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: Because so.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant: Begone.",
}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def json_lines(path: Path, rows: Sequence[Any]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    return write(path, buffer.getvalue())


def only(path: Path, **options: Any) -> Pair:
    [pair] = read_pairs(path, "axis", **options)
    return pair


def test_hh_dialogues_are_split_where_they_part(tmp_path: Path) -> None:
    pair = only(json_lines(tmp_path / "x", [HH]))
    assert pair.prompt == (("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?"))
    assert (pair.chosen, pair.rejected) == ("Because so.", "Begone.")
    assert (pair.axis, pair.source, pair.line) == ("axis", "x", 1)


def test_hh_answers_that_share_their_start_keep_it(tmp_path: Path) -> None:
    row = {key: text.replace("Begone", "Be gone") for key, text in HH.items()}
    assert only(json_lines(tmp_path / "x", [row])).rejected == "Be gone."


def test_packed_files_are_read_by_their_content_not_their_name(tmp_path: Path) -> None:
    path = tmp_path / "plain-looking.txt"
    path.write_bytes(gzip.compress((json.dumps(HH) + "\n").encode()))
    assert only(path).chosen == "Because so."


def test_a_teacher_s_margin_is_kept_and_people_have_none(tmp_path: Path) -> None:
    row = {"prompt": "Q", "chosen": "good", "rejected": "bad"}
    assert only(json_lines(tmp_path / "a", [{**row, "margin": 0.25}])).margin == 0.25
    assert only(json_lines(tmp_path / "b", [row])).margin is None
    assert only(table(tmp_path / "c", [*row, "margin"], [[*row.values(), "-1.5"]])).margin == -1.5


@pytest.mark.parametrize("margin", ["high", "nan", True, [1]])
def test_a_margin_that_is_no_number_is_refused(tmp_path: Path, margin: object) -> None:
    row = {"prompt": "Q", "chosen": "good", "rejected": "bad", "margin": margin}
    with pytest.raises(DataError, match="x:1:"):
        only(json_lines(tmp_path / "x", [row]))


messages = [{"role": "user", "content": "Q"}]
answer = [*messages, {"role": "assistant", "content": "good"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "good", "rejected": "bad"},
        {"prompt": messages, "chosen": answer, "rejected": "bad"},
        {"prompt": "Q", "response_0": "bad", "response_1": "good", "better_response_id": 1},
        {"prompt": "Q", "response": ["good", "bad"]},
    ],
)
def test_every_json_format_gives_the_same_pair(tmp_path: Path, row: dict[str, Any]) -> None:
    for path in (
        json_lines(tmp_path / "lines", [row]),
        write(tmp_path / "list", json.dumps([row], indent=2)),
    ):
        pair = only(path)
        assert pair.prompt == (("user", "Q"),)
        assert (pair.chosen, pair.rejected) == ("good", "bad")


def test_a_csv_of_pairs(tmp_path: Path) -> None:
    path = table(tmp_path / "x", ["prompt", "chosen", "rejected"], [["Q,\n2", "good", "bad"]])
    assert only(path).prompt == (("user", "Q,\n2"),)


def test_labelled_responses_are_paired_within_a_prompt(tmp_path: Path) -> None:
    rows = [(q, f"{q}{label}{i}", label) for q in "01" for label in "01" for i in range(2 + int(q))]
    path = table(tmp_path / "x", ["question", "Response", "label"], rows)
    prompts = table(tmp_path / "p", ["index", "text"], [["0", "first"], ["1", "second"]])
    pairs = list(read_pairs(path, "axis", prompts=prompts))
    assert len(pairs) == 2 + 3
    for pair in pairs:
        question = {"first": "0", "second": "1"}[pair.prompt[0][1]]
        assert pair.chosen.startswith(question + "0")
        assert pair.rejected.startswith(question + "1")


def test_labelled_texts_use_every_text_and_excluded_ones_never(tmp_path: Path) -> None:
    lines = [f"{i % 2} text {i}" for i in range(20)] + ["1 extra", "1 other"]
    path = write(tmp_path / "x", "\n".join(lines) + "\n")
    pairs = list(read_pairs(path, "axis", is_excluded=lambda text: text == "text 3"))
    assert {pair.chosen for pair in pairs} == {f"text {i}" for i in range(1, 20, 2)} - {
        "text 3"
    } | {"extra", "other"}
    assert {pair.rejected for pair in pairs} == {f"text {i}" for i in range(0, 20, 2)}
    assert all(pair.prompt == () for pair in pairs)


def test_the_better_label_may_be_turned_round(tmp_path: Path) -> None:
    path = table(tmp_path / "x", ["text", "label"], [["a", "0"], ["b", "1"]])
    assert only(path).chosen == "b"
    assert only(path, better_label="0").chosen == "a"


def test_where_keeps_one_source(tmp_path: Path) -> None:
    rows = [["a", "0", "x"], ["b", "1", "x"], ["c", "0", "y"], ["d", "1", "y"]]
    path = table(tmp_path / "x", ["text", "label", "source"], rows)
    assert only(path, where=("source", "y")).chosen == "d"


@given(st.integers(0, 2**31))
def test_partners_depend_on_the_seed_alone(tmp_path_factory: Any, seed: int) -> None:
    path = tmp_path_factory.getbasetemp() / "labelled"
    write(path, "\n".join(f"{i % 2} text {i}" for i in range(12)))
    first = list(read_pairs(path, "axis", seed=seed))
    assert first == list(read_pairs(path, "axis", seed=seed))


turns = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), st.text("abc: \n").map(str.strip)),
    min_size=1,
    max_size=5,
)


@given(turns)
def test_a_dialogue_is_parsed_back(messages: list[tuple[str, str]]) -> None:
    names = {"user": "Human", "assistant": "Assistant"}
    text = "".join(f"\n\n{names[role]}: {content}" for role, content in messages)
    assert parse_dialogue(text) == tuple(messages)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no records"),
        ('{"chosen": "a"}\n', "unknown preference format with fields chosen"),
        (json.dumps(HH) + '\n{"chosen": "x"}\n', r"bad:2: no field 'rejected'"),
        (json.dumps(HH) + "\n{nonsense\n", r"bad:2: not JSON"),
        (json.dumps(HH) + "\n\n[1]\n", r"bad:3: expected a JSON object"),
        ('{"chosen": "a", "rejected": "b"}\n', r"bad:1: the two dialogues share no"),
        ('{"prompt": "q", "chosen": 1, "rejected": "b"}\n', r"bad:1: expected a text, found int"),
        ('{"prompt": 3, "chosen": "a", "rejected": "b"}\n', r"bad:1: 'prompt' must be"),
        ('{"prompt": "q", "response": ["a"]}\n', r"bad:1: 'response' must be a list of two"),
        ("prompt,chosen,rejected\na,b,c\na,b\n", r"bad:3: not as many fields"),
        ("1 good\n2 bad\n", r"bad:2: expected '0 text'"),
        ("text,label\na,0\n", "no row has the better label '1'"),
    ],
)
def test_a_bad_file_is_refused_by_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path / "bad", content)
    with pytest.raises(DataError, match=message):
        list(read_pairs(path, "axis"))


def test_a_file_that_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        list(read_pairs(tmp_path / "none", "axis"))
    damaged = tmp_path / "damaged.gz"
    damaged.write_bytes(gzip.compress(b"x" * 1000)[:-12])
    with pytest.raises(DataError, match="cannot read"):
        list(read_pairs(damaged, "axis"))


def test_an_unknown_prompt_index_is_named(tmp_path: Path) -> None:
    path = table(tmp_path / "x", ["question", "Response", "label"], [["7", "a", "0"]])
    prompts = table(tmp_path / "p", ["index", "text"], [["0", "first"]])
    with pytest.raises(DataError, match="no prompt '7'"):
        list(read_pairs(path, "axis", prompts=prompts))


def test_indices_are_looked_up_in_the_list_beside_the_file(tmp_path: Path) -> None:
    path = table(
        tmp_path / "x", ["question", "Response", "label"], [["1", "a", "0"], ["1", "b", "1"]]
    )
    without = only(path)
    assert without.prompt == ()
    assert (without.chosen, without.rejected) == ("a", "b")
    table(tmp_path / "question_list.csv", ["index", "text"], [["1", "Why?"]])
    assert only(path).prompt == (("user", "Why?"),)


def test_groups_stay_apart_without_a_list_of_prompts(tmp_path: Path) -> None:
    rows = [(q, f"{q}{label}", label) for q in "012" for label in "01"]
    path = table(tmp_path / "x", ["question", "Response", "label"], rows)
    pairs = list(read_pairs(path, "axis"))
    assert [(p.chosen, p.rejected) for p in pairs] == [("00", "01"), ("10", "11"), ("20", "21")]


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_that_is_or_swells_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    path = tmp_path / "bomb.jsonl"
    text = b'{"a": 1}\n' + b" " * 991
    monkeypatch.setattr("stars_local.preferences.records._MAX_BYTES", 1000)
    path.write_bytes(gzip.compress(text) if packed else text)
    assert len(list(read_records(path))) == 1
    path.write_bytes(gzip.compress(text + b" ") if packed else text + b" ")
    with pytest.raises(DataError, match="more than 1000 bytes"):
        list(read_records(path))
