"""`chat` over the doubles: commands, plain text, keys, sessions across runs."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console
from typer.testing import CliRunner, Result

from stars_local import compose
from stars_local.chat.session import Session
from stars_local.cli.app import app
from stars_local.cli.chat_desk import Desk
from stars_local.cli.chat_input import Keyboard, piped_lines
from stars_local.cli.chat_room import Room
from stars_local.cli.chat_screen import TerminalScreen
from stars_local.config import configure
from stars_local.core.doubles import EnumerableModel, TableReward
from stars_local.core.errors import DataError, ModelError, UsageError
from stars_local.core.methods.registry import METHODS
from stars_local.core.records import Outcome, RewardInfo
from stars_local.method_settings import Thresholds
from stars_local.settings import Settings

runner = CliRunner()
SHORT = [
    *("--segment-size", "3", "--max-new-tokens", "9", "--width", "2", "--seed", "0"),
    *("--alpha", "0.5", "--beta", "0.5", "--reward-threshold", "2"),
]


class Language(EnumerableModel):
    """The enumerable double as `compose` hands it out, with a state to save."""

    chat_template = "{{ messages }}"

    def unload(self) -> None:
        """Nothing to free."""

    def says(self, token_ids: Sequence[int], text: str) -> bool:
        """Compare with the table's texts."""
        known = dict(enumerate(self._vocabulary))
        return text == "".join(known.get(token, "") for token in token_ids)

    def save_state(self) -> bytes:
        """A state that only it knows."""
        return b"state"

    def load_state(self, data: bytes) -> int:
        """Take back its own state."""
        if data != b"state":
            raise ModelError("the saved state has sha256 'aa', this model has 'bb'")
        return 5


class Reward(TableReward):
    """The table under a name."""

    @property
    def info(self) -> RewardInfo:
        """A name."""
        return RewardInfo("kind", "1", "0" * 64, "kind", ("kind",), 512)


def language(n_ctx: int = 4096) -> Language:
    return Language(("a", "b", "é", "\x1b[2J"), lambda _: (0.4, 0.3, 0.1, 0.2, 0.0), n_ctx=n_ctx)


@pytest.fixture(name="folder", autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Doubles in place of the adapters, sessions in a folder of the test's."""
    monkeypatch.setattr(compose, "open_language_model", lambda *_, **__: language())
    monkeypatch.setattr(compose, "open_reward_model", lambda _: Reward(lambda t: t.count("a")))
    folder = tmp_path / "sessions"
    monkeypatch.setenv("STARS_LOCAL_SESSIONS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def chat(lines: str | bytes, *args: str) -> Result:
    return runner.invoke(app, ["chat", *SHORT, *args], input=lines)


class TestPlain:
    """Not a terminal."""

    def test_each_line_is_a_turn_and_answers_are_all_there_is(self, folder: Path) -> None:
        result = chat("hello\n\nagain\n")
        assert result.exit_code == 0, result.stderr
        [path] = folder.glob("*.jsonl")
        with Session.resume(path) as session:
            turns = session.conversation.turns
        assert [turn.asked.text for turn in turns] == ["hello", "again"]
        assert result.stdout == "".join(f"{turn.text}\n" for turn in turns)

    @pytest.mark.parametrize("name", METHODS)
    def test_every_method_talks(self, folder: Path, name: str) -> None:
        own = ":spread=0.5" if METHODS[name].needs_spread else ""
        result = chat("hello\n/why\n/stats\n/retry\nagain\n", "--method", f"{name}{own}")
        assert result.exit_code == 0, result.stderr
        [path] = folder.glob("*.jsonl")
        with Session.resume(path) as session:
            turns = session.conversation.turns
        assert [turn.asked.text for turn in turns] == ["hello", "again"]
        for turn in turns:
            assert turn.answered is not None
            assert (turn.answered.method, turn.answered.n_kept_tokens) == (name, 9)
            assert f"{turn.text}\n" in result.stdout
            judged = [a for a in turn.attempts if a.reward is not None]
            assert bool(judged) == METHODS[name].scores
            kept = [a for a in turn.attempts if a.outcome in (Outcome.ACCEPTED, Outcome.FORCED)]
            assert "".join(a.text for a in kept) == turn.text

    def test_the_same_seed_prints_the_same(self) -> None:
        assert (
            chat("a\nb\n").stdout == chat("a\nb\n").stdout != chat("a\nb\n", "--seed", "1").stdout
        )

    def test_resume_goes_on_with_the_last(self, folder: Path) -> None:
        chat("one\n")
        chat("two\n", "--resume", "--system", "be kind")
        [path] = folder.glob("*.jsonl")
        with Session.resume(path) as session:
            assert [t.asked.text for t in session.conversation.turns] == ["one", "two"]
            assert session.conversation.system == "be kind"

    def test_nothing_to_resume(self) -> None:
        result = chat("", "--resume")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "no conversation to resume" in result.stderr

    def test_pages_have_no_escapes_and_fit_eighty_columns(self) -> None:
        result = chat("hello\n/why\n/stats\n/help\n")
        assert "\x1b" not in result.stdout.split("\n", 1)[1]
        assert max(map(len, result.stdout.splitlines())) <= 80
        for word in ("reward", "rejected", "accepted", "kept tokens/s", "/retry", "Alt-Enter"):
            assert word in result.stdout

    @pytest.mark.parametrize("line", ["/nonsense", "/why", "/set width 0", "/load none"])
    def test_a_mistake_ends_a_pipe_with_one_line(self, line: str) -> None:
        result = chat(f"{line}\nnot reached\n")
        assert result.exit_code in (1, 2)
        assert result.stdout == "" and result.stderr.count("\n") == 1

    def test_input_that_is_not_text(self) -> None:
        result = chat(b"fine\n\xff\xfe\n")
        assert result.exit_code == 1
        assert "line 2 of standard input is not valid UTF-8" in result.stderr

    def test_exit_leaves(self, folder: Path) -> None:
        assert chat("/exit\nnot asked\n").exit_code == 0
        assert list(folder.glob("*.jsonl")) == []

    def test_a_folder_that_cannot_be_written(self, folder: Path) -> None:
        folder.write_text("a file")
        result = chat("hello\n")
        assert result.exit_code == 1
        assert "STARS_LOCAL_SESSIONS" in result.stderr and result.stderr.count("\n") == 1


def room_of(folder: Path, settings: dict[str, object], model: Language) -> Room:
    folder.mkdir(exist_ok=True)
    given = {"width": 2, "segment_size": 3, "max_new_tokens": 9, **settings}
    reward = Reward(lambda text: float(text.count("a")))
    models = compose.Models(model, reward)  # type: ignore[arg-type]

    def thresholds(found: Settings, _: compose.Models) -> Thresholds | None:
        if found.segment_size == 13:
            raise DataError("no calibration for 13")
        return None if found.method == "vanilla" else Thresholds(0.5, 0.5, 2.0)

    desk = Desk(configure(given, {}), models, Thresholds(0.5, 0.5, 2.0), 0, thresholds)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    return Room(Session.create(folder), desk, TerminalScreen(console), folder)


def shown(room: Room, *lines: str) -> str:
    """What the terminal gets for these lines."""
    file = room._screen._console.file  # type: ignore[attr-defined]
    start = len(file.getvalue())
    for line in lines:
        assert room.handle(line)
    return str(file.getvalue()[start:])


@pytest.fixture(name="room")
def _room(folder: Path) -> Iterator[Room]:
    room = room_of(folder, {}, language())
    yield room
    room.session.close()


def questions(room: Room) -> list[str]:
    return [turn.asked.text for turn in room.session.conversation.turns]


def test_retry_draws_another_answer_to_the_same_question(room: Room) -> None:
    room.handle("one")
    before = room.session.conversation.turns[-1].text
    room.handle("/retry")
    [turn] = room.session.conversation.turns
    assert turn.asked.text == "one" and turn.asked.draw == 1
    assert turn.text != before


def test_undo_and_reset(room: Room) -> None:
    shown(room, "/system kind", "one", "two")
    assert "took back: two" in shown(room, "/undo")
    assert questions(room) == ["one"]
    shown(room, "/reset")
    assert questions(room) == [] and room.session.conversation.system == "kind"
    with pytest.raises(UsageError, match="nothing was asked"):
        room.handle("/undo")


def test_edit_replaces_the_last_question_unless_something_else_is_typed(room: Room) -> None:
    shown(room, "one", "two", "/edit")
    assert room.draft == "two"
    shown(room, "two and a half")
    assert questions(room) == ["one", "two and a half"]
    shown(room, "/edit", "", "three")
    assert questions(room) == ["one", "two and a half", "three"]


@pytest.mark.parametrize("command", ["/retry", "/edit"])
def test_a_question_that_fails_is_not_lost(
    room: Room, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(room, "one", "two")

    def fails(*_: object, **__: object) -> None:
        raise ModelError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(compose, "make_task", fails)
        with pytest.raises(ModelError):
            shown(room, command, "two, better")
    assert questions(room) == ["one", "two"]
    assert room.draft in ("two", "two, better")
    shown(room, room.draft)
    assert len(questions(room)) == 2


def test_a_width_beyond_what_the_context_was_opened_for_is_refused(room: Room) -> None:
    with pytest.raises(UsageError, match="needs 34 sequences, this chat was opened with 24"):
        room.handle("/set width 32")
    shown(room, "/set width 1", "/set width 2", "hello")


def test_the_system_message(room: Room) -> None:
    assert "no system message" in shown(room, "/system")
    assert "system: be kind" in shown(room, "/system be kind")
    shown(room, '/system ""')
    assert room.session.conversation.system is None


def test_set_changes_what_follows_and_params_shows_it(room: Room) -> None:
    assert "max_new_tokens is 3 (was 9)" in shown(room, "/set max-new-tokens 3")
    assert "temperature is 0.5 (was 1.0)" in shown(room, "/set temperature=0.5")
    assert "look at" not in shown(room, "/set force last")
    shown(room, "hello")
    assert len(room.session.conversation.turns[-1].token_ids or ()) == 3
    page = shown(room, "/params")
    assert "temperature = 0.5" in page and "# /set" in page
    shown(room, "/set max_new_tokens default", "/set method vanilla", "hello")
    assert "alpha is 0.3" in (line := shown(room, "/set alpha 0.3"))
    assert "vanilla does not look at it" in line
    assert "max_new_tokens = 256" in shown(room, "/params")
    answered = room.session.conversation.turns[-1].answered
    assert answered is not None
    assert (answered.method, answered.n_kept_tokens) == ("vanilla", 256)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/set temprature 1", "temperature"),
        ("/set temperature hot", "temperature"),
        ("/set model other.gguf", "--model"),
        ("/set n_ctx 12", "--n-ctx"),
        ("/set system x", "/system TEXT"),
        ("/set method starz", "stars"),
        ("/set n 4", "belongs to --method best-of-n, not to stars"),
        ("/set k 4", "belongs to --method blockwise, not to stars"),
        ("/set threshold_from prompt", "give --reward-threshold"),
        ("/set segment_size 13", "no calibration for 13"),
        ("/set json_schema no-such-file", "no-such-file"),
    ],
)
def test_a_value_that_cannot_be_changes_nothing(room: Room, line: str, reason: str) -> None:
    before = shown(room, "/params")
    with pytest.raises((UsageError, DataError), match=reason):
        room.handle(line)
    assert shown(room, "/params") == before


def test_what_belongs_to_a_method_goes_with_it(folder: Path) -> None:
    room = room_of(folder, {"method": "best-of-n:n=4"}, language())
    assert "method is stars" in shown(room, "/set method stars")
    assert "# n =" in shown(room, "/params")
    shown(room, "/set method best-of-n:n=3", "hello")
    assert room.session.conversation.turns[-1].kept[0].segment.n_attempts == 3
    room.session.close()


def test_why_shows_every_attempt_with_reward_and_fate(room: Room) -> None:
    shown(room, "hello")
    attempts = room.session.conversation.turns[-1].attempts
    page = shown(room, "/why")
    rows = page.strip().splitlines()[1:]
    assert len(rows) == len(attempts)
    for row, attempt in zip(rows, attempts, strict=True):
        assert row.split()[:2] == [str(attempt.segment + 1), str(attempt.index + 1)]
        assert attempt.outcome.value in row
        if attempt.reward is not None:
            assert f"{attempt.reward:.3f}" in row
    assert "\x1b[2J" not in page


def test_save_and_load_are_a_copy(room: Room, tmp_path: Path) -> None:
    shown(room, "one", "/save talk.jsonl --kv", "two")
    original = room.session.path
    said = shown(room, "/load talk.jsonl")
    assert "1 turn from" in said and "5 tokens of the model's state loaded" in said
    assert questions(room) == ["one"] and room.session.path != original
    shown(room, "three")
    assert questions(room) == ["one", "three"]
    Session.resume(original).close()
    with pytest.raises(UsageError, match="exists"):
        room.handle("/save talk.jsonl")


def test_a_state_of_another_model_is_refused_and_the_words_are_kept(
    room: Room, tmp_path: Path
) -> None:
    shown(room, "one", "/save talk.jsonl --kv")
    (tmp_path / "talk.jsonl.kv").write_bytes(b"another's")
    said = " ".join(shown(room, "/load talk.jsonl").split())
    assert "is refused" in said and "read anew" in said
    assert questions(room) == ["one"]


def test_a_full_context_is_told(folder: Path) -> None:
    room = room_of(folder, {}, language(n_ctx=60))
    said = shown(room, *("a question",) * 4)
    assert "the context is full" in said
    room.session.close()


def test_lines_of_a_pipe() -> None:
    assert list(piped_lines(io.BytesIO(b"\xef\xbb\xbfa\r\n\n b \nc"))) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        ("hello\r", ["hello"]),
        ("two\x1b\rlines\r", ["two\nlines"]),
        ("cleared\x03next\r", ["", "next"]),
        ("\x04", [None]),
        ("\x1b[200~pasted\nlines\x1b[201~\r", ["pasted\nlines"]),
    ],
)
def test_keys(tmp_path: Path, keys: str, lines: list[str | None]) -> None:
    with create_pipe_input() as pipe:
        keyboard = Keyboard(tmp_path / "history", input=pipe, output=DummyOutput())
        pipe.send_text(keys)
        assert [keyboard.read() for _ in lines] == lines


def test_history_outlives_the_run_and_drafts_can_be_changed(tmp_path: Path) -> None:
    history = tmp_path / "history"
    for keys, default, wanted in (("first\r", "", "first"), ("!\r", "draft", "draft!")):
        with create_pipe_input() as pipe:
            keyboard = Keyboard(history, input=pipe, output=DummyOutput())
            pipe.send_text(keys)
            assert keyboard.read(default) == wanted
    assert list(FileHistory(str(history)).load_history_strings()) == ["draft!", "first"]
    with pytest.raises(DataError, match="history"):
        Keyboard(tmp_path / "none" / "history")
