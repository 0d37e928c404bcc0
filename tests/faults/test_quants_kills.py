"""Quantised files made and compared by processes that are killed at any moment."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_kills import SIGNALS, STEER, emptied, kills, left_over
from tests.support.fork_server import ForkServer
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward

MAKE = ["quants", "make", "tiny.gguf", "--types", "Q8_0,Q4_0", "--out", "made"]
COMPARE = [
    *("quants", "compare", "tiny.gguf", "other.gguf", "--out", "run", "--limit", "3"),
    *("--windows", "2", "--window", "64", "--threads", "1", "--seed", "0", "--cohort", "1"),
    *("--max-new-tokens", "8", "--segment-size", "4", "--reward", "tiny-reward"),
    *STEER[:-2],
]


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quants")
    write_tiny(folder / "tiny.gguf", "llama", n_ctx=2048)
    write_tiny(folder / "other.gguf", "llama", n_ctx=2048, seed=1)
    write_tiny_reward(folder / "tiny-reward")
    return folder


@pytest.fixture(scope="module", name="server")
def _server(place: Path) -> Iterator[ForkServer]:
    environment = {"XDG_DATA_HOME": str(place / "data"), "XDG_CACHE_HOME": str(place / "cache")}
    with ForkServer(place, environment) as server:
        yield server


@pytest.mark.parametrize("kill", SIGNALS, ids=lambda each: each.name)
def test_a_killed_make_leaves_whole_files_only(
    kill: signal.Signals, server: ForkServer, place: Path
) -> None:
    folder = place / "made"
    whole: dict[str, bytes] = {}
    for _ in kills(server, kill, MAKE, "", lambda: emptied(folder)):
        before = {path.name: path.read_bytes() for path in folder.glob("*.gguf")}
        again = server.run(MAKE)
        assert again.status == 0, again.stderr
        found = {path.name: path.read_bytes() for path in folder.glob("*.gguf")}
        whole = whole if whole else found
        assert found == whole and len(whole) == 2
        assert before.items() <= whole.items(), "a file had its name before it was whole"
        assert left_over(folder) == []


@pytest.mark.parametrize("kill", SIGNALS, ids=lambda each: each.name)
def test_a_killed_compare_goes_on(kill: signal.Signals, server: ForkServer, place: Path) -> None:
    folder = place / "run"
    whole: list[Any] = []
    for _ in kills(server, kill, COMPARE, "", lambda: emptied(folder)):
        before = {path: path.read_bytes() for path in folder.rglob("results.jsonl")}
        again = server.run(COMPARE)
        assert again.status == 0, again.stderr
        found = [drawn(folder), *fidelities(folder)]
        whole = whole if whole else found
        assert found == whole
        for path, kept in before.items():
            lines = kept[: kept.rfind(b"\n") + 1]
            assert path.read_bytes().startswith(lines), "an answer on disk was lost"
        assert left_over(folder) == []


def drawn(folder: Path) -> list[Any]:
    """Every answer of a run."""
    lines = [
        (path.parent.name, json.loads(line))
        for path in folder.rglob("results.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return sorted((name, line["arm"], line["prompt_id"], line["text"]) for name, line in lines)


def fidelities(folder: Path) -> list[Any]:
    """What the report says of each file's next-token distributions."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return [(row["name"], row["ppl"], row["kl"]) for row in report["files"]]
