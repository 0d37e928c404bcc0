"""`stars-local models verify` and reward models: every file, every copy."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stars_local.catalog.reward_records import SHIPPED, record_of, recorded, write_record
from stars_local.cli.app import app
from stars_local.core.errors import ModelError
from stars_local.reward.resolve import find_model
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward

runner = CliRunner()


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder into which a bundle brought the reward model `theirs`."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("STARS_LOCAL_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    write_tiny(tmp_path / "models" / "tiny.gguf", "llama")
    write_tiny_reward(tmp_path / "theirs")
    run("bundle", "create", "b.tar", "--model", "tiny", "--reward", "theirs")
    run("bundle", "install", "b.tar")
    return tmp_path / "models"


def run(*words: str, code: int = 0) -> str:
    result = runner.invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.stdout


def states(place: Path, code: int = 0) -> dict[str, str]:
    """What is said of the files of one folder."""
    rows = json.loads(run("models", "verify", "--json", code=code))
    return {Path(r["path"]).name: r["state"] for r in rows if Path(r["path"]).parent == place}


@contextmanager
def flipped(path: Path) -> Iterator[None]:
    """For a while the last even digit of a file is the next odd one: JSON stays JSON."""
    content = path.read_bytes()
    at = max(content.rfind(digit) for digit in (b"0", b"2", b"4", b"6", b"8"))
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    yield
    path.write_bytes(content)


def test_a_flipped_bit_in_any_file_of_an_installed_reward_model_is_found(folder: Path) -> None:
    place = folder / "theirs"
    files = {path.name for path in place.iterdir()}
    assert files == {"reward.json", "golden.json", "model.onnx", "tokenizer.json"}
    assert states(place) == dict.fromkeys(files, "intact")
    for name in files:
        with flipped(place / name):
            found = states(place, code=1)
            assert found.pop(name) == "damaged" and set(found.values()) == {"intact"}
    (place / "golden.json").unlink()
    assert states(place, code=1)["golden.json"] == "missing"


def test_a_copy_that_a_shipped_model_hides_is_looked_at_too(folder: Path) -> None:
    shipped, is_shipped = find_model("hh-minilm")
    assert is_shipped
    copy = folder / "hh-minilm"
    write_tiny_reward(copy)
    assert states(shipped)["model.onnx"] == states(copy)["model.onnx"] == "intact"
    (copy / "model.onnx").write_bytes(b"other")
    assert states(copy, code=1)["model.onnx"] == "damaged"
    assert states(shipped, code=1)["model.onnx"] == "intact"


def test_files_that_nobody_recorded_are_no_more_than_unknown(folder: Path) -> None:
    write_tiny_reward(folder / "own")
    assert states(folder / "own") == {
        "reward.json": "unknown",
        "golden.json": "unknown",
        "model.onnx": "intact",
        "tokenizer.json": "intact",
    }
    (folder / "own" / "golden.json").unlink()
    assert states(folder / "own", code=1)["golden.json"] == "missing"


def test_a_reward_model_of_which_only_the_record_is_left_is_missing(folder: Path) -> None:
    (folder / "theirs" / "reward.json").unlink()
    assert states(folder / "theirs", code=1)["reward.json"] == "missing"
    shutil.rmtree(folder / "theirs")
    said = run("models", "verify", code=1)
    record = folder / "manifests" / "theirs.reward.json"
    assert f"install its bundle again, or remove {record}" in said
    record.unlink()
    assert "theirs" not in run("models", "verify")


def test_the_shipped_reward_model_is_the_one_that_is_known() -> None:
    place, _ = find_model("hh-minilm")
    held = {path.name for path in place.iterdir() if path.suffix != ".md"}
    assert held == set(SHIPPED["hh-minilm"])
    for name, digest in SHIPPED["hh-minilm"].items():
        found = hashlib.sha256((place / name).read_bytes()).hexdigest()
        assert found == digest, f"{name} changed: write its sha256 into SHIPPED"


def test_a_shipped_file_that_changed_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHIPPED["hh-minilm"], "golden.json", "0" * 64)
    shipped, _ = find_model("hh-minilm")
    assert states(shipped, code=1)["golden.json"] == "damaged"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"schema": 2, "files": {}}',
        b'{"schema": 1, "files": {}}',
        b"{" * 70_000,
        b'{"schema": 1, "files": {"a": 5}}',
        b'{"schema": 1, "files": {"../a": "%b"}}' % (b"0" * 64),
    ],
)
def test_any_bytes_for_a_record(tmp_path: Path, content: bytes) -> None:
    write_record(tmp_path, "x", {"a.onnx": "0" * 64})
    assert record_of(tmp_path, "x") == {"a.onnx": "0" * 64} and recorded(tmp_path) == ["x"]
    (tmp_path / "manifests" / "x.reward.json").write_bytes(content)
    with pytest.raises(ModelError, match="install x again"):
        record_of(tmp_path, "x")
