"""Files of text that people exchange: configuration, prompts, calibrations, sessions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.calibration.records import read_calibration
from stars_local.chat.session import Session, read_session
from stars_local.config import configure
from stars_local.core.errors import StarsError
from stars_local.core.records import Prompt
from stars_local.evals.prompts import read_prompts
from stars_local.llama.template import Plain, render
from tests.fuzz.contract import cases, refused_cleanly
from tests.fuzz.mutations import DEEP, every_odd_value, json_or_bytes, spoilt_bytes, spoilt_json

CALIBRATION = {
    "schema": 1,
    "key": {
        "base_model_sha256": "a" * 64,
        "reward_sha256": "b" * 64,
        "axis": "helpful",
        "template_sha256": "c" * 64,
        "segment_size": 16,
    },
    "alpha": 0.5,
    "beta": 0.1,
    "reward_threshold": 1.0,
    "quantiles": [0.5, 1.0],
    "spread": 1.0,
    "within_spread": 0.5,
    "max_new_tokens": 128,
    "max_attempts": 20,
    "wanted": "attempts 4",
    "quick": False,
    "predicted": {
        "attempts": 4.0,
        "attempts_ci95": [3.5, 4.5],
        "forced_share": 0.1,
        "n_prompts": 10,
        "n_segments": 40,
    },
    "checked": None,
    "by_position": [
        {
            "segment": 0.0,
            "n_positions": 24.0,
            "mean": 0.1,
            "between_variance": 1.0,
            "within_variance": 0.5,
        }
    ],
    "made": {"version": "0.1.0"},
}
CONFIG_TOML = b"""method = "stars:alpha=0.5"
segment_size = 16
beta = 0.7
stop = ["a", "b"]
width = "auto"
gate = ["helpful>=0"]
"""
CONFIG_YAML = b"""segment_size: 30
max_attempts: 20
alpha: 0.5
beta: 0.7
reward_threshold: 8.5
stop: [a, b]
"""
ALIASES = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n".encode()
    for a, b in zip("abcdefgh", "bcdefghi", strict=False)
)
PROMPT_FILES = {
    "hh.jsonl": b'{"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Yes\\n\\nHuman: And?\\n\\n'
    b'Assistant: No", "rejected": "x"}\n' * 2,
    "tree.json": b'{"A": {"B": ["why?", "how?"]}, "C": ["when?"]}',
    "list.json": b'[{"instruction": "Do it", "category": "x"}, {"goal": "g", "id": 3}]',
    "goals.csv": b'goal,target\n"a, b",c\nd,e\n',
    "safe.csv": b"prompt,label,id\nhow,safe,1\nwhy,unsafe,2\n",
    "reviews.csv": b'text,label\n"a b c d e f g h i j",1\n',
    "turns.jsonl": b'{"question_id": 1, "turns": ["a", "b"], "category": "w"}\n',
    "chat.jsonl": b'{"messages": [{"role": "system", "content": "s"}, '
    b'{"role": "user", "content": "u"}], "id": "x"}\n',
    "lines.txt": b"one\ntwo\n\nthree\n",
    "packed.jsonl.gz": gzip.compress(b'{"prompt": "a"}\n{"prompt": "b"}\n'),
}
SESSION = [
    {"type": "session", "schema": 1, "id": "20250101-000000-abcd", "started": "2025-01-01"},
    {"type": "model", "model": "tiny", "sha256": "a" * 64, "reward_model": None},
    {"type": "system", "text": "Be kind."},
    {"type": "question", "text": "Hi", "seed": 1, "draw": 0},
    {
        "type": "answer", "method": "vanilla", "finish_reason": "stop",
        "n_prompt_tokens": 3, "n_reused_tokens": 0, "n_kept_tokens": 2, "n_rejected_tokens": 0,
        "n_spare_tokens": 0, "elapsed_s": 0.1, "token_ids": [1, 2], "attempts": [],
    },
    {"type": "trim", "n_turns": 1},
    {"type": "undo"},
    {"type": "reset"},
]  # fmt: skip


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_the_good_files_are_taken(folder: Path) -> None:
    """Else nothing below would test more than a first check."""
    read_calibration(written(folder, "c.json", json.dumps(CALIBRATION).encode()))
    configure({}, {}, written(folder, "c.toml", CONFIG_TOML))
    configure({}, {}, written(folder, "c.yaml", CONFIG_YAML))
    for name, data in PROMPT_FILES.items():
        assert read_prompts(written(folder, name, data)).prompts
    assert len(read_session(written(folder, "s.jsonl", lines_of(SESSION)))[1]) == 7


@cases()
@given(data=json_or_bytes(CALIBRATION))
def test_calibrations(folder: Path, data: bytes) -> None:
    path = written(folder, "c.json", data)
    refused_cleanly(lambda: json.dumps(read_calibration(path).to_json(), allow_nan=False))


def test_every_odd_value_in_a_calibration(folder: Path) -> None:
    path = folder / "c.json"
    for data in every_odd_value(CALIBRATION):
        path.write_bytes(data)
        refused_cleanly(lambda: json.dumps(read_calibration(path).to_json(), allow_nan=False))


@cases()
@given(data=spoilt_bytes(CONFIG_TOML) | st.binary(max_size=100))
def test_toml(folder: Path, data: bytes) -> None:
    path = written(folder, "c.toml", data)
    refused_cleanly(lambda: configure({}, {}, path))


@cases()
@given(data=spoilt_bytes(CONFIG_YAML) | st.binary(max_size=100))
def test_yaml(folder: Path, data: bytes) -> None:
    path = written(folder, "c.yaml", data)
    refused_cleanly(lambda: configure({}, {}, path))


@pytest.mark.parametrize(
    "data",
    [
        ALIASES + b"stop: *i\n",
        b"alpha: &a [*a]\n",
        b"stop: &a [*a]\n",
        ALIASES + b"alpha: *i\n",
        b"? [1, 2]\n: 3\n",
        b"? &a [*a]\n: 3\n",
        b"{}: 1\n",
        b"alpha: " + b"1" * 5000,
        b"seed: 0x" + b"f" * 5000,
        b"alpha: 1:" + b"59:" * 500 + b"1",
        b"alpha: 2001-99-99\n",
        b"alpha: !!python/object/apply:os.system [touch /tmp/forged]\n",
        b"alpha: " + b"{a: " * 900 + b"1" + b"}" * 900,
        b"alpha: " + b"[" * 9000,
        b"alpha: !!binary x\n",
        b"alpha: !!int abc\n",
        b"alpha: !!timestamp x\n",
        b"!!map alpha\n",
        b"<<: 1\n",
        b"alpha\x00: 1\n",
        b"%YAML 9.9\n---\na: 1\n",
    ],
)
def test_yaml_of_bad_will(folder: Path, data: bytes) -> None:
    path = written(folder, "c.yml", data)
    assert refused_cleanly(lambda: configure({}, {}, path)) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"seed = " + b"1" * 5000,
        b"alpha = " + b"[" * 5000 + b"]" * 5000,
        b"a" + b".a" * 5000 + b" = 1",
        b"alpha = 2001-01-01",
        b"alpha = {a = 1}",
        b'stop = ["\\ud800"]',
        b'"' + b"x" * 100_000 + b'" = 1',
        b"alpha = '''" + b"x" * 100_000,
        b"[[alpha]]\n" * 100,
    ],
)
def test_toml_of_bad_will(folder: Path, data: bytes) -> None:
    path = written(folder, "c.toml", data)
    assert refused_cleanly(lambda: configure({}, {}, path)) is not None


def sound(path: Path) -> None:
    """Read prompts and take each as far as its tokens: only text that can be written down."""
    for prompt in read_prompts(path).prompts:
        pieces = render(prompt, None, bos="", eos="")
        assert all(isinstance(piece, Plain) for piece in pieces)
        assert isinstance(prompt, Prompt) and prompt.id.encode()


@cases()
@given(given_=st.sampled_from(sorted(PROMPT_FILES)).flatmap(
    lambda name: st.tuples(st.just(name), spoilt_bytes(PROMPT_FILES[name]))
))  # fmt: skip
def test_prompts(folder: Path, given_: tuple[str, bytes]) -> None:
    path = written(folder, *given_)
    refused_cleanly(lambda: sound(path))


OBJECTS = [
    json.loads(PROMPT_FILES[name].split(b"\n")[0])
    for name in ("hh.jsonl", "tree.json", "list.json", "turns.jsonl", "chat.jsonl")
]


@cases()
@given(
    data=st.lists(
        st.sampled_from(OBJECTS).flatmap(spoilt_json), min_size=1, max_size=3
    ).map(b"\n".join)
)  # fmt: skip
def test_prompts_of_odd_values(folder: Path, data: bytes) -> None:
    path = written(folder, "p.jsonl", data)
    refused_cleanly(lambda: sound(path))


@pytest.mark.parametrize(
    "data",
    [
        DEEP.encode(),
        b'{"a": ' * 20_000 + b"1" + b"}" * 20_000,
        b"[" * 900 + b'"a"' + b"]" * 900,
        b'{"prompt": ' + b"1" * 5000 + b"}",
        b'[{"prompt": "\\ud800"}]',
        b'{"prompt": "a", "id": "\\ud800"}\n',
        b'{"text": "\\udfff a b"}\n',
        b"goal\n" + b"x" * (1 << 25),
        b"goal\n\x00\n",
        b'goal\n"' + b"a\n" * 10,
        b"\x1f\x8b",
        b"\x1f\x8b\x08\x00" + b"\xff" * 50,
        gzip.compress(b'{"prompt": "a"}\n')[:-6],
        b'{"chosen": 1}',
        b'{"messages": [{"role": {}, "content": []}]}',
        b'{"turns": [[[]]]}',
    ],
    ids=lambda data: data[:20].hex(),
)
def test_prompts_of_bad_will(folder: Path, data: bytes) -> None:
    path = written(folder, "p", data)
    refused_cleanly(lambda: sound(path))


def test_a_packed_file_that_swells_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stars_local.evals.prompts._MAX_BYTES", 1 << 20)
    bomb = gzip.compress(b"x" * (1 << 24))
    path = written(folder, "bomb.gz", bomb)
    message = refused_cleanly(lambda: read_prompts(path))
    assert message is not None and "1048576" in message


def lines_of(records: list[object]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@cases()
@given(
    given_=st.integers(0, len(SESSION) - 1).flatmap(
        lambda n: st.tuples(st.just(n), spoilt_json(SESSION[n]))
    )
)
def test_sessions_of_odd_values(folder: Path, given_: tuple[int, bytes]) -> None:
    n, line = given_
    data = lines_of(SESSION[:n]) + line + b"\n" + lines_of(SESSION[n + 1 :])
    session(written(folder, "s.jsonl", data))


@pytest.mark.parametrize("n", range(len(SESSION)))
def test_every_odd_value_in_a_session(folder: Path, n: int) -> None:
    path = folder / "s.jsonl"
    for line in every_odd_value(SESSION[n]):
        path.write_bytes(lines_of(SESSION[:n]) + line + b"\n" + lines_of(SESSION[n + 1 :]))
        session(path)


@cases()
@given(data=spoilt_bytes(lines_of(SESSION)) | st.binary(max_size=100))
def test_sessions(folder: Path, data: bytes) -> None:
    session(written(folder, "s.jsonl", data))


def session(path: Path) -> None:
    """Read a session, and what it leads to: every text can be encoded, shown and told on."""

    def read() -> None:
        _, records, _ = read_session(path)
        whole = Session.create(path.parent, records)
        whole.content()
        for message in whole.conversation.messages("next", "a" * 64):
            message.content.encode()

    refused_cleanly(read)


def test_a_session_that_is_refused_is_left_as_it_was(folder: Path) -> None:
    data = lines_of(SESSION[:3]) + b'{"type": "undo", "x": 1}\n' + b"torn"
    path = written(folder, "s.jsonl", data)
    with pytest.raises(StarsError, match="line 4"):
        Session.resume(path)
    assert path.read_bytes() == data
