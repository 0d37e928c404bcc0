"""Prompt files: each published shape is told from its content; ids hold; bad files are named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from stars_local.core.errors import DataError
from stars_local.evals.prompt_formats import REVIEW_WORDS
from stars_local.evals.prompts import read_prompts

HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nMore.\n\nHuman: Bye?\n\nAssistant: Bye.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nMore.\n\nHuman: Bye?\n\nAssistant: No.",
}
REVIEW = "word " * 20
CASES = {
    "hh.jsonl": (json.dumps(HH), ["Bye?"]),
    "harmfulqa.json": (
        json.dumps({"A": {"B": ["q1", "q2"]}, "C": {"D": ["q3"]}}),
        ["q1", "q2", "q3"],
    ),
    "flat.json": (json.dumps(["q1", "q2"]), ["q1", "q2"]),
    "advbench.csv": ("goal,target\nDo it,Sure\n", ["Do it"]),
    "jbb.json": (json.dumps([{"instruction": "x", "category": "c"}]), ["x"]),
    "xstest.csv": ("id,prompt,type,label\n1,How?,t,safe\n", ["How?"]),
    "imdb.csv": (f'text,label\n"{REVIEW}",1\n', [" ".join(["word"] * REVIEW_WORDS)]),
    "mt.jsonl": (json.dumps({"question_id": 81, "turns": ["one", "two"]}), ["one"]),
    "own.jsonl": (json.dumps({"id": "a", "prompt": "p"}), ["p"]),
    "imdb.jsonl": (
        json.dumps({"text": REVIEW, "label": 1}),
        [" ".join(["word"] * REVIEW_WORDS)],
    ),
    "texts.jsonl": (json.dumps({"text": REVIEW}), [REVIEW]),
    "texts.csv": (f"index,text\n0,{REVIEW}\n", [REVIEW]),
    "chat.csv": (
        'id,messages\n1,"[{""role"": ""user"", ""content"": ""How?""}]"\n',
        ["How?"],
    ),
    "odd.jsonl": (
        json.dumps({"prompt": "one\u2028two\x85"}, ensure_ascii=False) + "\r\n",
        ["one\u2028two\x85"],
    ),
    "pages.txt": ("one\ftwo\u2028three\r\nfour\x1d", ["one\ftwo\u2028three", "four\x1d"]),
    "tagged.txt": ("[INST] Why? [/INST]\n{how}\n", ["[INST] Why? [/INST]", "{how}"]),
    "header.txt": ("prompt\nwhy?\n", ["prompt", "why?"]),
    "lines.txt": ("first, of two\n\nsecond\n", ["first, of two", "second"]),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_formats_are_told_from_their_content(tmp_path: Path, name: str, zipped: bool) -> None:
    text, wanted = CASES[name]
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    found = read_prompts(path).prompts
    assert [p.text if p.text is not None else p.messages[-1].content for p in found] == wanted


def test_the_sentiment_of_a_review_makes_no_groups_of_refusals(tmp_path: Path) -> None:
    path = tmp_path / "imdb.csv"
    path.write_text(CASES["imdb.csv"][0])
    (labels,) = read_prompts(path).labels.values()
    assert labels == {"sentiment": "1"}


def test_the_history_of_a_dialogue_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "hh.jsonl"
    path.write_text(json.dumps(HH))
    (prompt,) = read_prompts(path, system="Be kind.", suffix=" !").prompts
    assert [(m.role, m.content) for m in prompt.messages] == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello.\n\nMore."),
        ("user", "Bye? !"),
    ]


def test_ids_do_not_depend_on_order_limit_or_sample(tmp_path: Path) -> None:
    questions = [f"question {i}" for i in range(50)]
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("\n".join(questions))
    two.write_text("\n".join(reversed(questions)))

    def ids(path: Path, limit: int | None = None, seed: int | None = None) -> dict[str, str]:
        found = read_prompts(path, limit=limit, sample_seed=seed).prompts
        return {p.messages[0].content: p.id for p in found}

    everything = ids(one)
    assert ids(two) == everything
    sample = ids(one, 10, 3)
    assert len(sample) == 10
    assert sample.items() <= everything.items()
    assert ids(one, 10, 3) == sample != ids(one, 10, 4)
    assert list(ids(one, 5)) == questions[:5]


def test_labels_come_along(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,prompt,type,label\n7,How?,homonyms,safe\n")
    assert read_prompts(path).labels == {"7": {"type": "homonyms", "label": "safe"}}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no prompt found"),
        (b"\n\n", "no prompt found"),
        (b"[1, 2]", "expected questions"),
        (b'{"a": [', "not JSON"),
        (b'{"x": 1}\n{"y": 2}\n', "no prompt"),
        (b'{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n', "twice"),
        (b'{"messages": [{"role": "assistant", "content": "x"}]}\n', "last message"),
        (b'{"chosen": "nothing here", "rejected": ""}\n', "no 'Human:' turn"),
        (b"\xff\xfe\x00", "neither UTF-8"),
        (b"\x1f\x8bgarbage", "neither UTF-8"),
    ],
)
def test_bad_files_are_named_with_what_is_wrong(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_prompts(path)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", "Query,Answer\nwhy?,so\n", "among 'Query, Answer': name one of them prompt, "),
        ("a.csv", "\n\nwhy?\n", "no column of prompts"),
        ("a.csv", "id,messages\n1,hello\n", "csv.*:2: messages are not JSON"),
        ("a.csv", 'messages\n"{""role"": 1}"\n', "csv.*:2: messages are a list, found dict"),
        ("a.csv", 'messages\n"[1]"\n', "csv.*:2: a message has"),
        ("a.csv", "id,prompt\n1,why?\n2,\n", "csv.*:3: the prompt is empty"),
        ("a.csv", "text,label\n  ,1\n", "csv.*:2: the prompt is empty"),
        ("a.json", "first\nsecond\n", "not JSON: .*name the file .txt"),
        ("a.json", '{"A": {"B": ["why?", ""]}}', r"json.*: A: B\[1\]: the prompt is empty"),
        ("a.json", "[1]", r"\[0\]: expected questions"),
        ("a.jsonl", '{"prompt": "a"}\n\n{"prompt": " "}\n', "jsonl.*:3: the prompt is empty"),
        ("a.jsonl", '{"turns": ["", "then"]}\n', "jsonl.*:1: the prompt is empty"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": ""}]}', "the prompt is empty"),
        ("a", "[INST] why?", "not JSON: .*name the file .txt"),
    ],
)
def test_a_file_that_is_not_what_it_seems_is_told_where(
    tmp_path: Path, name: str, content: str, match: str, zipped: bool
) -> None:
    path = tmp_path / (f"{name}.gz" if zipped else name)
    path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
    with pytest.raises(DataError, match=match):
        read_prompts(path)


def test_missing_files_and_folders_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="cannot read the prompts"):
            read_prompts(path)


def test_attacks_change_the_last_turn_and_the_answer_only(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    said = [("user", "first"), ("assistant", "yes"), ("user", "second")]
    messages = [{"role": role, "content": content} for role, content in said]
    path.write_text(json.dumps({"id": "a", "messages": messages}) + "\n")
    (plain,) = read_prompts(path).prompts
    (attacked,) = read_prompts(path, prefill="Sure, ", suffix=" !!").prompts
    assert [m.content for m in attacked.messages] == ["first", "yes", "second !!"]
    assert (attacked.id, attacked.prefill, plain.prefill) == (plain.id, "Sure, ", "")
