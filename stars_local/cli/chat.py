"""`stars-local chat`: a conversation, every segment of it accepted while one watches."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stars_local.cli.lazy import EXIT_INTERRUPTED
from stars_local.cli.options import with_settings
from stars_local.config import Configured

if TYPE_CHECKING:
    from rich.console import Console

    from stars_local.chat.session import Session
    from stars_local.cli.chat_desk import Desk
    from stars_local.cli.chat_room import Room

HISTORY = "history"


@with_settings
def chat(
    configured: Configured,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last conversation.")
    ] = False,
    show_rejected: Annotated[
        bool, typer.Option("--show-rejected", help="Leave rejected attempts on the screen.")
    ] = False,
) -> None:
    """Talk to a model and watch its segments; not on a terminal, each line of input is a turn."""
    from stars_local.chat.session import check_folder, sessions_folder
    from stars_local.cli.chat_room import Room
    from stars_local.cli.chat_screen import PlainScreen, TerminalScreen

    folder = sessions_folder(os.environ)
    check_folder(folder)
    with open_session(folder, configured, resume=resume) as session, opened(configured) as desk:
        if not on_terminal():
            room = Room(session, desk, PlainScreen(), folder)
            converse_plainly(room)
            return
        from rich.console import Console

        console = Console(highlight=False)
        screen = TerminalScreen(console, show_rejected=show_rejected)
        room = Room(session, desk, screen, folder)
        greet(console, desk, session)
        converse(room, console, folder / HISTORY)


def on_terminal() -> bool:
    """Whether a person types and watches, on a terminal that can move its cursor."""
    both = sys.stdin.isatty() and sys.stdout.isatty()
    return both and os.environ.get("TERM") != "dumb"


def open_session(folder: Path, configured: Configured, *, resume: bool) -> Session:
    """The last session, or a new one; with the system message of the settings."""
    from stars_local.chat.records import SystemSet
    from stars_local.chat.session import Session, latest

    system = configured.settings.system
    change = [] if system is None else [SystemSet(system)]
    if not resume:
        return Session.create(folder, change)
    session = Session.resume(latest(folder))
    if system is not None and system != session.conversation.system:
        session.append(SystemSet(system))
    return session


@contextmanager
def opened(configured: Configured) -> Iterator[Desk]:
    """The models and thresholds of the settings, ready to answer."""
    from stars_local import compose
    from stars_local.cli.chat_desk import Desk
    from stars_local.cli.thresholds import measure_widths, thresholds_for
    from stars_local.method_settings import spec_of

    settings = configured.settings
    seed = compose.random_seed() if settings.seed is None else settings.seed
    with compose.open_models(settings, scores=spec_of(settings).scores) as models:
        thresholds = thresholds_for(settings, models)
        measure_widths(settings, models)
        yield Desk(configured, models, thresholds, seed, thresholds_for)


def greet(console: Console, desk: Desk, session: Session) -> None:
    """Say what takes part, and where the conversation stands if it goes on."""
    from stars_local.cli.chat_pages import banner
    from stars_local.cli.chat_room import recap, resumed_note
    from stars_local.cli.terminal import neutralise

    language, reward = desk.models.language.info, desk.models.reward
    info = None if reward is None else reward.info
    console.print(banner(language, info, desk.settings.method, desk.thresholds))
    last = session.conversation.last
    if last is not None:
        note = neutralise(resumed_note(session, language.weights_sha256))
        console.print(note, style="dim", markup=False)
        console.print(recap(last))


def converse(room: Room, console: Console, history: Path) -> None:
    """Read and answer until the person leaves; errors are said in a line, and it goes on."""
    from rich.text import Text

    from stars_local.cli.chat_input import Keyboard
    from stars_local.cli.terminal import neutralise
    from stars_local.core.errors import StarsError

    keyboard = Keyboard(history)
    while (line := keyboard.read(room.draft)) is not None:
        try:
            if not room.handle(line):
                break
        except StarsError as error:
            console.print(Text(neutralise(str(error)), style="red"))
        except KeyboardInterrupt:
            console.print(Text("stopped; what was accepted stays", style="dim"))
    room.session.close()


def converse_plainly(room: Room) -> None:
    """Answer each line of standard input. Raises the first error; Ctrl-C leaves."""
    from stars_local.cli.chat_input import piped_lines

    for line in piped_lines(sys.stdin.buffer):
        if not room.handle(line):
            break
        if room.interrupted:
            raise typer.Exit(EXIT_INTERRUPTED)
    room.session.close()
