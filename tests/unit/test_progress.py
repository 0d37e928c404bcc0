"""Progress where nobody watches a bar: plain lines, not too many."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stars_local.cli import progress


def lines(monkeypatch: pytest.MonkeyPatch, seconds_each: float, total: int = 100) -> list[str]:
    now = [0.0]
    monkeypatch.setattr("stars_local.cli.progress.time.monotonic", lambda: now[0])
    file = io.StringIO()
    with progress.stages(Console(file=file, width=80)) as advance:
        for done in range(1, total + 1):
            now[0] += seconds_each
            advance("reading", done, total)
    return file.getvalue().splitlines()


def test_a_line_at_the_beginning_at_the_end_and_every_half_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = lines(monkeypatch, 5.0)
    assert said[0] == "reading: 1 of 100"
    assert said[1] == "reading: 7 of 100, 8 min left"
    assert said[-1] == "reading: 100 of 100"
    assert len(said) == 2 + 99 * 5 // 30
    assert any(line.endswith(" s left") for line in said)


def test_quick_work_says_little(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, 0.01) == ["reading: 1 of 100", "reading: 100 of 100"]


HOSTILE = {
    "a\x1b]0;pwned\x07\x1b[2J.gguf": "a␛]0;pwned␇␛[2J.gguf",
    "[link=http://evil/]x.gguf": "[link=http://evil/]x.gguf",
    "/tmp/[/x].gguf": "/tmp/[/x].gguf",
    "[red]x.gguf": "[red]x.gguf",
    ":skull:.gguf": ":skull:.gguf",
    "x\u202e.gguf": "x\\u202e.gguf",
    "x\x9b2J.gguf": "x\\x9b2J.gguf",
    "x\nforged: 10 of 10": "x forged: 10 of 10",
}


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_files_are_shown_and_never_obeyed(name: str, terminal: bool) -> None:
    file = io.StringIO()
    with progress.stages(Console(file=file, force_terminal=terminal, width=120)) as advance:
        advance(name, 0, 10)
        advance(name, 10, 10)
    shown = file.getvalue()
    assert HOSTILE[name] in shown
    assert not any(mark in shown for mark in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e"))
    assert len([line for line in shown.splitlines() if "forged" in line and "x" not in line]) == 0
