"""`models pull` where it goes wrong, models in several files, and two processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stars_local.cli.app import app
from tests.support.file_server import Served, serving
from tests.support.tiny_gguf import write_tiny, write_tiny_split

runner = CliRunner()


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("STARS_LOCAL_MODELS_DIR", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


def models(*words: str) -> Result:
    return runner.invoke(app, ["models", *words])


def kept(folder: Path) -> list[str]:
    """The files anywhere in a models folder, without locks."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.name for path in files if path.suffix != ".lock")


def refused(result: Result, code: int, *words: str) -> None:
    """It ended with a code and one line that says so."""
    assert result.exit_code == code, result.output
    *_, last = result.stderr.splitlines()
    assert last.startswith("stars-local: ") and "Traceback" not in result.stderr
    for word in words:
        assert word in last


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_server_that_refuses_is_named_and_nothing_is_left(folder: Path, status: int) -> None:
    with serving(Served(b"", status=status)) as served:
        refused(models("pull", f"{served.address}/m.gguf"), 1, str(status), "m.gguf")
    assert kept(folder) == []


def test_what_is_no_model_is_refused(folder: Path) -> None:
    with serving(Served(b"<html>please sign in</html>")) as served:
        refused(models("pull", f"{served.address}/m.gguf"), 1, "m.gguf")
    assert kept(folder) == []


def test_a_server_that_is_not_there(folder: Path) -> None:
    with serving(Served(b"")) as served:
        gone = served.address
    refused(models("pull", f"{gone}/m.gguf"), 1, "m.gguf")
    assert kept(folder) == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("SmolLM2-135M-Instruct.Q4_2", ["Q4_1"]),
        ("ftp://host/m.gguf", ["ftp"]),
        ("hf:only-an-org", ["hf:"]),
        ("../m.gguf", ["../m.gguf"]),
    ],
)
def test_sources_that_mean_nothing_are_a_matter_of_usage(
    folder: Path, source: str, words: list[str]
) -> None:
    refused(models("pull", source), 2, *words)
    assert kept(folder) == []


def test_a_broken_pull_is_taken_up_by_the_next(folder: Path, tmp_path: Path) -> None:
    content = write_tiny(tmp_path / "tiny.gguf", "llama").read_bytes()
    with serving(Served(content, break_after=[len(content) // 2])) as served:
        done = models("pull", f"{served.address}/m.gguf")
        assert done.exit_code == 0, done.stderr
        ranges = [asked.get("Range") for asked in served.asked]
    assert ranges[0] is None and f"bytes={len(content) // 2}-" in ranges
    assert (folder / "m.gguf").read_bytes() == content
    assert models("verify").exit_code == 0


def test_a_model_in_parts_comes_is_described_and_goes_as_one(folder: Path, tmp_path: Path) -> None:
    parts = write_tiny_split(tmp_path, "llama")
    whole = write_tiny(tmp_path / "whole.gguf", "llama")
    refused(models("import", str(parts[1]), "--copy"), 1, f"give the first, {parts[0].name}")
    done = models("import", str(parts[0]), "--copy")
    assert done.exit_code == 0, done.stderr
    assert [path.read_bytes() for path in parts] == [
        (folder / path.name).read_bytes() for path in parts
    ]
    (row,) = [row for row in json.loads(models("list", "--json").stdout) if row["here"]]
    assert row["size_bytes"] == sum(path.stat().st_size for path in parts)
    told, expected = (
        json.loads(models("info", str(path), "--json").stdout)
        for path in (folder / parts[0].name, whole)
    )
    assert told["tensor_types"] == expected["tensor_types"]
    assert models("verify").exit_code == 0
    (folder / parts[1].name).unlink()
    refused(models("verify"), 1, parts[1].name)


def test_a_part_that_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    first, second = write_tiny_split(tmp_path, "llama")
    second.unlink()
    refused(models("import", str(first)), 1, second.name)
    assert kept(folder) == []


def test_two_processes_importing_one_name_leave_one_whole_model(
    folder: Path, tmp_path: Path
) -> None:
    origin = write_tiny(tmp_path / "tiny.gguf", "llama")
    program = "from stars_local.cli.app import main; main()"
    command = [sys.executable, "-c", program, "models", "import", str(origin), "--copy"]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert (folder / "tiny.gguf").read_bytes() == origin.read_bytes()
    assert models("verify").exit_code == 0
    assert not [name for name in kept(folder) if "unfinished" in name or name.endswith(".part")]
