"""The live view: exact frames at a fixed width, and nothing lost or wrapped twice."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stars_local.cli.live import LiveView, wrap
from stars_local.core.events import Drawing, Judged, Kept
from stars_local.core.records import Attempt, Outcome, Segment

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202eevil\r"


def screen(width: int = 80, **options: object) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=24, force_terminal=True, legacy_windows=False,
        **{"color_system": None, "_environ": {}, **options},  # type: ignore[arg-type]
    )  # fmt: skip


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def frame(console: Console, view: LiveView) -> str:
    with console.capture() as capture:
        console.print(view.transient(), end="")
    return capture.get()


def judged(index: int, outcome: Outcome, text: str = "no", reward: float = -0.3125) -> Judged:
    return Judged(Attempt(2, index, text, 4, outcome, reward, 0.12, 0.021))


def kept(text: str) -> Kept:
    segment = Segment(2, text, 4, 0.5, 0.12, 1.0, 1, Outcome.ACCEPTED)
    return Kept(segment, (1,), 0, text)


def plain(view: LiveView, console: Console) -> list[str]:
    return [line.rstrip() for line in frame(console, view).split("\n")]


def test_the_frames_of_a_segment_at_eighty_columns() -> None:
    console = screen()
    view = LiveView(console, animate=False)
    view.show(kept("So far"))
    assert plain(view, console)[0] == "So far"
    view.show(Drawing(2, 4, 4, 20))
    assert plain(view, console)[:2] == ["So far", "██░░░░░░░░ segment 3  attempt 5-8 of 20"]
    view.show(judged(4, Outcome.REJECTED))
    assert plain(view, console)[1] == (
        "███░░░░░░░ segment 3  attempt 5 of 20  reward -0.312  tau 0.120  p 0.02"
    )
    view.show(judged(19, Outcome.FORCED, reward=-12.3456))
    line = plain(view, console)[1]
    assert line == "██████████ segment 3  attempt 20 of 20  reward -12.346  tau 0.120  p 0.02"
    assert len(line) <= 80
    view.show(kept(" and on"))
    assert plain(view, console)[0] == "So far and on"


def test_ascii_terminals_get_an_ascii_bar() -> None:
    console = screen()
    buffer = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console.file = buffer
    view = LiveView(console, animate=False)
    view.show(Drawing(0, 0, 1, 20))
    assert view.transient() is not None
    with console.capture() as capture:
        console.print(view.transient())
    assert capture.get().strip() == "---------- segment 1  attempt 1 of 20"


def test_a_narrow_terminal_gets_one_row_of_status() -> None:
    console = screen(width=30)
    view = LiveView(console, animate=False)
    view.show(judged(4, Outcome.REJECTED))
    rows = plain(view, console)
    assert len([row for row in rows if row]) == 1
    assert rows[0].endswith("…")


def test_after_the_answer_only_accepted_text_stays() -> None:
    console = screen(width=20)
    text = "one two three four five six seven"
    with LiveView(console) as view:
        view.show(Drawing(2, 0, 1, 20))
        view.show(judged(0, Outcome.REJECTED))
        for word in re.findall(r"\S+ ?", text):
            view.show(kept(word))
    left = emulate(output(console))
    assert [row for row in left if row] == ["one two three four", "five six seven"]


def test_rejected_attempts_stay_where_they_happened() -> None:
    console = screen(width=60, color_system="standard")
    with LiveView(console, show_rejected=True) as view:
        view.show(kept("accepted"))
        view.show(judged(0, Outcome.REJECTED, "re\njected"))
        view.show(kept(" more"))
    assert "\x1b[2m  x 1  reward -0.312  tau 0.120  re jected\x1b[0m" in output(console)
    assert [row for row in emulate(output(console)) if row] == [
        "accepted",
        "  x 1  reward -0.312  tau 0.120  re jected",
        "more",
    ]


@pytest.mark.parametrize("show_rejected", [False, True])
def test_no_escape_sequence_of_the_model_reaches_the_terminal(show_rejected: bool) -> None:
    console = screen()
    with LiveView(console, show_rejected=show_rejected) as view:
        view.show(judged(0, Outcome.REJECTED, HOSTILE))
        view.show(kept(HOSTILE))
    allowed = re.sub(r"\x1b\[(\d*[AK]|\?25[hl]|\d*m)|\r", "", output(console))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", allowed)
    assert "[2J" in allowed


def test_markup_of_the_model_is_text() -> None:
    console = screen()
    with LiveView(console) as view:
        view.show(kept("[red]not red[/red] :smile:"))
    assert "[red]not red[/red] :smile:" in output(console)


WORDS = st.text(st.sampled_from("ab  \né文"), max_size=60)


@given(WORDS, st.integers(2, 12))
def test_rows_fit_and_lose_nothing_but_break_spaces(text: str, width: int) -> None:
    rows = wrap(text, width)
    assert all(sum(2 if char == "文" else 1 for char in row) <= width for row in rows)
    squeezed = re.sub(r"\s", "", text)
    assert re.sub(r"\s", "", "".join(rows)) == squeezed


@given(WORDS, WORDS, st.integers(2, 12))
def test_rows_printed_for_good_never_change(first: str, second: str, width: int) -> None:
    *printed, row = wrap(first, width)
    assert printed + wrap(row + second, width) == wrap(first + second, width)


def emulate(written: str) -> list[str]:
    """The rows that a terminal shows after this output: the few controls that Rich uses."""
    rows, at, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d]*[A-Za-z]|[^\x1b]", written):
        if part == "\n":
            at, column = at + 1, 0
            rows += [""] * (at + 1 - len(rows))
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part.startswith("\x1b"):
            at -= int(part[2:-1] or "1")
        elif part == "\x1b[2K":
            rows[at] = ""
        elif not part.startswith("\x1b"):
            rows[at] = rows[at][:column].ljust(column) + part + rows[at][column + 1 :]
            column += 1
    return [row.rstrip() for row in rows]
