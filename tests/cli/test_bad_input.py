"""What people get wrong: one clear line, exit 1 or 2, no traceback, no dead process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import onnx
import pytest
from typer.testing import CliRunner, Result

from stars_local import compose
from stars_local.cli.app import app
from stars_local.reward.manifest import write_manifest
from tests.cli.test_generate import CALIBRATED, language
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import (
    WORDS,
    manifest_of,
    network,
    table,
    tiny_tokenizer,
    write_tiny_reward,
)

runner = CliRunner()
LIMITS = ["--max-new-tokens", "4", "--n-ctx", "64", "--threads", "1"]
VANILLA = ["generate", "--method", "vanilla", *LIMITS]


@pytest.fixture(scope="module", name="tiny")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama")


def assert_one_line(result: Result, *words: str) -> None:
    """Refused with exit 1 or 2 and one line that says these words."""
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("stars-local: ")
    assert result.stderr.count("\n") == 1
    assert "internal error" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_the_tiny_model_answers(tiny: Path) -> None:
    result = runner.invoke(app, [*VANILLA, "hi", "--json", "--seed", "0", "--model", str(tiny)])
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["model"]["path"] == str(tiny)
    assert 1 <= found["n_kept_tokens"] <= 4


def missing(folder: Path, _: Path) -> Path:
    return folder / "absent.gguf"


def directory(folder: Path, _: Path) -> Path:
    (folder / "d.gguf").mkdir()
    return folder / "d.gguf"


def empty(folder: Path, _: Path) -> Path:
    (folder / "e.gguf").touch()
    return folder / "e.gguf"


def text(folder: Path, _: Path) -> Path:
    (folder / "t.gguf").write_text("not a model\n" * 100)
    return folder / "t.gguf"


def truncated(folder: Path, tiny: Path) -> Path:
    (folder / "c.gguf").write_bytes(tiny.read_bytes()[:-1000])
    return folder / "c.gguf"


def unknown_architecture(folder: Path, tiny: Path) -> Path:
    (folder / "a.gguf").write_bytes(tiny.read_bytes().replace(b"llama", b"llamb"))
    return folder / "a.gguf"


def vocabulary_only(folder: Path, tiny: Path) -> Path:
    whole = gguf.GGUFReader(tiny)
    writer = gguf.GGUFWriter(folder / "v.gguf", "llama")
    for name in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges"):
        writer.add_array(name, whole.fields[name].contents())
    writer.add_tokenizer_model("gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return folder / "v.gguf"


def other_sizes(folder: Path, tiny: Path) -> Path:
    raw = tiny.read_bytes()
    key = b"llama.embedding_length"
    at = raw.index(key) + len(key) + 4  # behind the key stands the type of the value
    (folder / "s.gguf").write_bytes(raw[:at] + b"\x21" + raw[at + 1 :])
    return folder / "s.gguf"


@pytest.mark.parametrize(
    "make",
    [
        missing,
        directory,
        empty,
        text,
        truncated,
        unknown_architecture,
        vocabulary_only,
        other_sizes,
    ],
)
def test_a_file_that_is_no_model_is_named(
    make: Callable[[Path, Path], Path], tmp_path: Path, tiny: Path
) -> None:
    file = make(tmp_path, tiny)
    assert_one_line(runner.invoke(app, [*VANILLA, "hi", "--model", str(file)]), file.name)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    result = runner.invoke(app, [*VANILLA, "hi", "--model", "SmolLM2-135M-Instruct.Q41"])
    assert_one_line(result, "did you mean 'SmolLM2-135M-Instruct.Q4_1'")


def test_a_prompt_longer_than_the_context(tiny: Path) -> None:
    result = runner.invoke(app, [*VANILLA, "x " * 500, "--model", str(tiny)])
    assert_one_line(result, "n_ctx is 64")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--grammar", ""),
        ("--grammar", "root ::= ("),
        ("--grammar", "x ::= y"),
        ("--grammar", 'root ::= root "a"'),
        ("--grammar", "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000),
        ("--json-schema", "{"),
        ("--json-schema", '{"type": "no such type"}'),
        ("--json-schema", '{"not": ' * 20_000 + "{}" + "}" * 20_000),
        ("--json-schema", "absent.json"),
    ],
)
def test_grammars_that_cannot_be_followed(flag: str, value: str, tiny: Path) -> None:
    assert_one_line(runner.invoke(app, [*VANILLA, "hi", "--model", str(tiny), flag, value]))


def test_an_empty_grammar_file_is_no_grammar(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "empty.gbnf"
    file.touch()
    args = [*VANILLA, "hi", "--model", str(tiny), "--grammar", str(file)]
    assert_one_line(runner.invoke(app, args), "grammar")


def test_a_grammar_from_a_file_is_followed(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "yes.gbnf"
    file.write_text('root ::= "yes" | "no"\n')
    for value in (str(file), 'root ::= "yes" | "no"'):
        args = [*VANILLA, "hi", "--model", str(tiny), "--grammar", value]
        assert runner.invoke(app, args).stdout in ("yes\n", "no\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--reward", "no-such-model"], "no-such-model"),
        (["--reward", "harmless=much"], "much"),
        (["--gate", "harmless"], "harmless"),
        (["--reward", "."], "reward.json"),
    ],
)
def test_reward_models_that_are_none(
    args: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = language()
    monkeypatch.setattr(compose, "open_language_model", lambda *_, **__: model)
    assert_one_line(runner.invoke(app, ["generate", "hi", *CALIBRATED, *args]), words)
    assert model.unloaded == 1


def garbage(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"\x08" * 100)
    write_manifest(folder, manifest_of(folder))


def other_signature(folder: Path) -> None:
    network_of = onnx.load(folder / "model.onnx")
    network_of.graph.input[1].name = "token_type_ids"
    for node in network_of.graph.node:
        node.input[:] = [
            "token_type_ids" if name == "attention_mask" else name for name in node.input
        ]
    onnx.save_model(network_of, str(folder / "model.onnx"))
    write_manifest(folder, manifest_of(folder))


def other_tokenizer(folder: Path) -> None:
    tiny_tokenizer((*WORDS, "one", "too", "many")).save(str(folder / "tokenizer.json"))
    write_manifest(folder, manifest_of(folder))


def not_a_number(folder: Path) -> None:
    onnx.save_model(network(table(), "nan"), str(folder / "model.onnx"))
    write_manifest(folder, manifest_of(folder))


def cut_short(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-20])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (garbage, "model.onnx"),
        (other_signature, "attention_mask"),
        (other_tokenizer, "does not fit"),
        (not_a_number, "gave nan"),
        (cut_short, "was changed or cut short"),
    ],
)
def test_reward_models_that_are_damaged(
    spoil: Callable[[Path], None], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = language()
    monkeypatch.setattr(compose, "open_language_model", lambda *_, **__: model)
    folder = write_tiny_reward(tmp_path / "tiny")
    args = ["generate", "hi", *CALIBRATED, "--width", "1", "--provider", "cpu", "--seed", "0"]
    args += ["--max-new-tokens", "4", "--reward", str(folder)]
    assert runner.invoke(app, args).exit_code == 0
    spoil(folder)
    assert_one_line(runner.invoke(app, args), words)


def test_a_configuration_with_an_unknown_key(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("segment_sise = 3\n")
    result = runner.invoke(app, [*VANILLA, "hi", "--config", str(file)])
    assert_one_line(result, "'segment_sise'", "'segment_size'")


def test_invalid_bytes_through_a_real_pipe() -> None:
    """Standard input and arguments as the system hands them over."""
    program = [sys.executable, "-c", "from stars_local.cli.app import main; main()", "generate"]
    for extra, given in (([], b"\xff\xfe"), ([b"\xff\xfe"], b"")):
        done = subprocess.run(
            [*program, *extra], input=given, capture_output=True, timeout=60, check=False
        )
        assert done.returncode in (1, 2)
        assert b"not valid UTF-8" in done.stderr
        assert done.stderr.count(b"\n") == 1
        assert done.stdout == b""
