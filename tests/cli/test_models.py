"""`stars-local models` from the command line: list, info, import, verify, remove, path."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stars_local.calibration import store
from stars_local.catalog.describe import Description, describe
from stars_local.cli.app import app
from stars_local.cli.models_shared import tell_path
from stars_local.core.files import sha256_of
from tests.support.tiny_gguf import write_tiny

runner = CliRunner()


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model outside the models folder, which is empty."""
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("STARS_LOCAL_MODELS_DIR", str(tmp_path / "models"))
    return write_tiny(tmp_path / "tiny.gguf", "llama")


def run(*words: str, code: int = 0) -> str:
    result = runner.invoke(app, ["models", *words])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def here() -> list[str]:
    return [row["name"] for row in json.loads(run("list", "--json")) if row["here"]]


def test_a_model_comes_is_found_and_goes(origin: Path) -> None:
    assert here() == []
    (placed,) = json.loads(run("import", str(origin), "--json"))
    assert here() == ["tiny"] and run("path", "tiny").strip() == placed
    assert Path(placed).is_symlink() and Path(run("path").strip()) == Path(placed).parent
    assert "removed" in run("remove", "tiny")
    assert here() == [] and origin.is_file(), "of a link only the link goes"


def test_a_flipped_byte_is_found_and_named(origin: Path) -> None:
    run("import", str(origin), "--copy")
    copied = Path(run("path", "tiny").strip())
    run("verify")
    data = bytearray(copied.read_bytes())
    data[-1] ^= 1
    copied.write_bytes(data)
    assert "tiny.gguf" in run("verify", code=1)
    rows = json.loads(runner.invoke(app, ["models", "verify", "--json"]).stdout)
    assert {Path(row["path"]).name: row["state"] for row in rows}["tiny.gguf"] == "damaged"


@pytest.mark.parametrize(
    ("changed", "calibrated"),
    [({}, True), ({"reward_sha256": "0" * 64}, False), ({"segment_size": 7}, False)],
)
def test_calibrated_is_said_of_a_pair_not_of_a_model(
    origin: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    calibrated: bool,
) -> None:
    run("import", str(origin))
    (shipped,) = store.shipped_folder().glob("*.json")
    found = json.loads(shipped.read_text())
    found["key"] |= {"base_model_sha256": sha256_of(origin), **changed}
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "damaged.json").write_text("{")
    (tmp_path / "kept" / "c.json").write_text(json.dumps(found))
    monkeypatch.setattr(store, "calibration_folders", lambda: (tmp_path / "kept",))
    rows = {row["name"]: row["calibrated"] for row in json.loads(run("list", "--json"))}
    assert rows["tiny"] is calibrated
    assert json.loads(run("info", "tiny", "--json"))["calibrated"] is calibrated
    assert ("calibration   measured" in run("info", "tiny")) is calibrated


def test_memory_grows_with_context_and_width(origin: Path) -> None:
    def memory(n_ctx: int, width: int) -> dict[str, int]:
        words = ("info", str(origin), "--n-ctx", str(n_ctx), "--width", str(width), "--json")
        found: dict[str, int] = json.loads(run(*words))["memory"]
        return found

    small, long, wide = memory(64, 1), memory(128, 1), memory(64, 4)
    assert long["kv_bytes"] == 2 * small["kv_bytes"]
    assert wide["logits_bytes"] == 4 * small["logits_bytes"]
    assert "memory        about" in run("info", str(origin))


def test_escape_sequences_in_names_are_shown_not_obeyed(origin: Path) -> None:
    name = "a\x1b[31m.gguf"
    (origin.parent / "models" / name).write_bytes(origin.read_bytes())
    for shown in (run("list"), run("verify")):
        assert "\x1b" not in shown and "[31m" in shown


def test_line_breaks_in_names_forge_no_line(origin: Path) -> None:
    name = "a\nFORGED\x1b[31m.gguf"
    placed = origin.parent / "models" / name
    placed.write_bytes(origin.read_bytes())
    for command in ("list", "verify", "licences"):
        shown = run(command)
        assert "FORGED" in shown and "\x1b" not in shown
        assert not [line for line in shown.splitlines() if line.startswith("FORGED")]
    assert run("path", name) == f"{placed}\n", "programs are told the path itself"
    refused = run("import", str(placed), code=2)
    assert "rename it" in refused and "\x1b" not in refused
    assert not [line for line in run("remove", name).splitlines() if line.startswith("FORGED")]


def test_a_path_is_harmless_on_a_terminal(
    origin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_terminal in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda is_terminal=is_terminal: is_terminal)
        tell_path(Path("/we\x1b[31mird\nname"))
        shown = capsys.readouterr().out
        assert ("\x1b" not in shown and shown.count("\n") == 1) is is_terminal


def test_a_name_inside_a_file_forges_no_line(origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forging(path: Path, **options: int) -> Description:
        return replace(describe(path, **options), name="x\nlicence       Apache-2.0")

    monkeypatch.setattr("stars_local.catalog.describe.describe", forging)
    shown = run("info", str(origin))
    assert "Apache" in shown
    assert not [line for line in shown.splitlines() if line.startswith("licence")]


def test_what_is_no_model_is_refused_and_leaves_nothing(origin: Path) -> None:
    origin.write_bytes(b"GGUF" + bytes(40))
    said = run("import", str(origin), code=1)
    assert said.splitlines()[-1].startswith("stars-local: ")
    assert here() == []
    assert "no model" in run("info", "nothing-of-the-kind", code=1)


def test_every_part_has_its_licence_listed(origin: Path) -> None:
    run("import", str(origin))
    rows = json.loads(run("licences", "--json"))
    said = {(row["kind"], row["name"]): row["licence"] for row in rows}
    assert said["package", "stars-local"] == "Apache-2.0"
    assert {"numpy", "llama-cpp-python", "tokenizers", "jinja2"} <= {name for _, name in said}
    assert said["reward", "hh-minilm"] == "Apache-2.0" and ("model", "tiny") in said
    assert "package  stars-local" in run("licences")
