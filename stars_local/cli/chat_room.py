"""A chat, line by line: a question is answered, a command is done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rich.text import Text

from stars_local.chat.commands import Command, parse, parse_save, parse_set
from stars_local.chat.conversation import Conversation, Turn
from stars_local.chat.records import Emptied, SystemSet, Undone
from stars_local.chat.session import Session, read_session, write_whole
from stars_local.chat.talk import Talk
from stars_local.chat.trust import doubt_forged
from stars_local.cli.chat_desk import Desk
from stars_local.cli.chat_pages import closing_line, help_page, stats_page, why_page
from stars_local.cli.chat_screen import Screen
from stars_local.cli.terminal import interrupting, neutralise
from stars_local.config import to_toml
from stars_local.core.errors import DataError, ModelError, StarsError, UsageError
from stars_local.core.records import Finish

KV_SUFFIX = ".kv"
_MAX_KV_BYTES = 64 << 30


class Room:
    """Answers lines until one of them leaves. `session` may change (`/load`).

    draft: what the next line should begin as, where it can be edited.
    """

    def __init__(self, session: Session, desk: Desk, screen: Screen, folder: Path) -> None:
        self.session = session
        self.draft = ""
        self.interrupted = False
        self._desk = desk
        self._screen = screen
        self._folder = folder
        self._replaces = False
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: screen.page(help_page()),
            "retry": self._retry,
            "undo": self._undo,
            "edit": self._edit,
            "system": self._system,
            "set": lambda argument: screen.note(desk.change(*parse_set(argument))),
            "params": lambda _: screen.page(Text(to_toml(desk.configured).rstrip("\n"))),
            "why": lambda _: screen.page(why_page(self._last())),
            "stats": lambda _: screen.page(stats_page(self._conversation.turns)),
            "save": self._save,
            "load": self._load,
            "reset": self._reset,
        }
        self._doubt()

    @property
    def _conversation(self) -> Conversation:
        return self.session.conversation

    def handle(self, line: str) -> bool:
        """Do what a line asks for; False if it asks to leave. Raises StarsError."""
        self.draft, self.interrupted = "", False
        replaces, self._replaces = self._replaces, False
        if not line.strip():
            return True
        found = parse(line)
        if isinstance(found, Command):
            if found.name == "exit":
                return False
            self._commands[found.name](found.argument)
        else:
            self._ask(found, replaces=replaces)
        return True

    def _ask(self, question: str, *, replaces: bool = False) -> None:
        models = self._desk.models
        talk = Talk(self.session, models.language, models.reward)
        events = talk.ask(
            question,
            self._desk.make_task,
            seed=self._desk.seed,
            least_room=self._desk.least_room,
            replaces=replaces,
        )
        turn = self._conversation.last
        try:
            with interrupting(talk.interrupt), closing(events):
                result = self._screen.play(events)
        except StarsError:
            if self._conversation.last is turn:  # it was never asked: let it be mended
                self.draft, self._replaces = question, replaces
            raise
        self.interrupted = result.finish_reason is Finish.INTERRUPTED
        turn = self._last()
        if turn.answered is not None:
            self._screen.note(closing_line(turn, turn.answered))

    def _last(self) -> Turn:
        turn = self._conversation.last
        if turn is None:
            raise UsageError("nothing was asked yet")
        return turn

    # -- commands ----------------------------------------------------------------------------

    def _retry(self, _: str) -> None:
        self._ask(self._last().asked.text, replaces=True)

    def _undo(self, _: str) -> None:
        question = self._last().asked.text
        self.session.append(Undone())
        self._screen.note(f"took back: {_shortened(question)}")

    def _edit(self, _: str) -> None:
        self.draft = self._last().asked.text
        self._replaces = True

    def _system(self, argument: str) -> None:
        if argument:
            self.session.append(SystemSet(None if argument == '""' else argument))
        text = self._conversation.system
        self._screen.note("no system message of its own" if text is None else f"system: {text}")

    def _reset(self, _: str) -> None:
        if self._conversation.turns:
            self.session.append(Emptied())
        self._screen.note("a new beginning; the system message stays")

    def _save(self, argument: str) -> None:
        name, with_kv = parse_save(argument)
        path = Path(f"chat-{self.session.header.id}.jsonl" if name is None else name).expanduser()
        state = Path(f"{path}{KV_SUFFIX}")
        for each in (path, state):
            if each.exists():
                raise UsageError(f"/save: {each} exists: choose another name")
        saved = f"saved {path}"
        if with_kv:
            data = self._desk.models.language.save_state()
            write_whole(state, data)
            saved += f" and {state} ({len(data) / 1e6:.1f} MB, for this model file and build only)"
        write_whole(path, self.session.content())
        self._screen.note(saved)

    def _load(self, argument: str) -> None:
        path = Path(argument).expanduser()
        _, records, _ = read_session(path)
        loaded = Session.create(self._folder, records)
        self.session.close()
        self.session = loaded
        self._screen.note(resumed_note(loaded, self._desk.models.language.info.weights_sha256))
        self._doubt()
        state = Path(f"{path}{KV_SUFFIX}")
        if state.exists():
            self._load_state(state)

    def _doubt(self) -> None:
        """Believe no token of a file that its text does not bear out."""
        language = self._desk.models.language
        n = doubt_forged(self._conversation, language.info.weights_sha256, language)
        if n > 0:
            answers = "1 answer" if n == 1 else f"{n} answers"
            self._screen.note(
                f"{answers} held tokens that the text does not: read anew, as text alone"
            )

    def _load_state(self, path: Path) -> None:
        """Take the saved state of the model if it is this model's; else say why not."""
        try:
            if path.stat().st_size > _MAX_KV_BYTES:
                raise DataError(f"{path}: larger than {_MAX_KV_BYTES} bytes")
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            n_tokens = self._desk.models.language.load_state(data)
        except ModelError as error:
            self._screen.note(f"{path} is refused: {error}; the conversation is read anew")
        else:
            self._screen.note(f"{n_tokens} tokens of the model's state loaded")


def resumed_note(session: Session, sha256: str) -> str:
    """What is said of a conversation that goes on."""
    conversation = session.conversation
    n = len(conversation.turns)
    parts = [f"{n} turn{'' if n == 1 else 's'} from {session.header.started}"]
    last = conversation.last
    if last is not None and last.answered is None:
        parts.append("the last answer was cut off; what was accepted of it stays")
    held = conversation.held
    if held is not None and held.sha256 != sha256:
        parts.append(f"held with {held.model}: its texts are read anew by this model")
    return "; ".join(parts)


def recap(turn: Turn) -> Text:
    """A turn of a conversation that goes on."""
    question = neutralise(turn.asked.text).replace("\n", "\n. ")
    return Text(f"> {question}\n{neutralise(turn.text).strip()}")


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"
