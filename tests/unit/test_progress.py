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
