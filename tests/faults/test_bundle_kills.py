"""Bundles made and installed by processes that are killed, and on disks that are full."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stars_local.cli.app import app
from tests.faults.test_full_disk import full_after, unfinished
from tests.faults.test_kills import SIGNALS, emptied, kills, left_over
from tests.support.fork_server import ForkServer
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward

CREATE = ["bundle", "create", "out/made.tar", "--model", "tiny.gguf", "--reward", "tiny-reward"]
INSTALL = ["bundle", "install", "whole.tar"]


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    write_tiny(folder / "tiny.gguf", "llama")
    write_tiny_reward(folder / "tiny-reward")
    return folder


@pytest.fixture(scope="module", name="server")
def _server(place: Path) -> Iterator[ForkServer]:
    environment = {
        "XDG_DATA_HOME": str(place / "data"),
        "STARS_LOCAL_MODELS_DIR": str(place / "models"),
    }
    with ForkServer(place, environment) as server:
        (place / "out").mkdir()
        made = server.run(CREATE)
        assert made.status == 0, made.stderr
        (place / "out" / "made.tar").rename(place / "whole.tar")
        yield server


def begin_anew(place: Path) -> None:
    for name in ("out", "models", "data"):
        emptied(place / name)
    (place / "out").mkdir()


@pytest.mark.parametrize("kill", SIGNALS, ids=lambda each: each.name)
def test_a_killed_create_leaves_a_whole_bundle_or_none(
    kill: signal.Signals, server: ForkServer, place: Path
) -> None:
    made, whole = place / "out" / "made.tar", (place / "whole.tar").read_bytes()
    for _ in kills(server, kill, CREATE, "", lambda: begin_anew(place)):
        if made.exists():
            assert made.read_bytes() == whole
            made.unlink()
        again = server.run(CREATE)
        assert again.status == 0, again.stderr
        assert made.read_bytes() == whole
        assert left_over(place / "out") == [str(made)]


@pytest.mark.parametrize("kill", SIGNALS, ids=lambda each: each.name)
def test_a_killed_install_goes_on_where_it_stopped(
    kill: signal.Signals, server: ForkServer, place: Path
) -> None:
    model, good = place / "models" / "tiny.gguf", (place / "tiny.gguf").read_bytes()
    for _ in kills(server, kill, INSTALL, "", lambda: begin_anew(place)):
        if model.exists():
            assert model.read_bytes() == good
        assert server.run(["models", "list"]).status == 0
        again = server.run(INSTALL)
        assert again.status == 0, again.stderr
        assert server.run(["models", "verify"]).status == 0
        assert model.read_bytes() == good
        left_over(place)
        assert unfinished(place) == []


@pytest.mark.parametrize("args", [CREATE, INSTALL], ids=["create", "install"])
def test_a_full_disk_is_one_line_and_nothing_half_written(
    args: list[str], server: ForkServer, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(place / "data"))
    monkeypatch.setenv("STARS_LOCAL_MODELS_DIR", str(place / "models"))
    monkeypatch.chdir(place)
    whole = place / "tiny.gguf"
    for n_bytes in (0, 50, whole.stat().st_size // 2):
        begin_anew(place)
        with full_after(n_bytes):
            result = CliRunner().invoke(app, args)
        assert result.exit_code == 1, result.output
        assert result.stderr.splitlines()[-1].startswith("stars-local: ")
        assert "Traceback" not in result.stderr and "internal error" not in result.stderr
        assert unfinished(place) == []
        assert not (place / "out" / "made.tar").exists()
        assert not (place / "models" / "tiny.gguf").exists()
    begin_anew(place)
    assert CliRunner().invoke(app, args).exit_code == 0
    shutil.rmtree(place / "data", ignore_errors=True)
