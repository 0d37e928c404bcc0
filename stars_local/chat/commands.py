"""What a person can type in a chat besides questions: `/name argument`.

A line that begins with two slashes is a question that begins with one.
"""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass

from stars_local.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Spec:
    """A command: what follows its name (empty: nothing may), and what it does."""

    argument: str
    help: str

    @property
    def required(self) -> bool:
        """Whether something must follow the name."""
        return bool(self.argument) and not self.argument.startswith("[")


COMMANDS: dict[str, Spec] = {
    "help": Spec("", "Show this page."),
    "retry": Spec("", "Draw another answer to the last question."),
    "undo": Spec("", "Take back the last question and its answer."),
    "edit": Spec("", "Change the last question and ask it again."),
    "system": Spec("[TEXT]", 'Set the system message; "" removes it, alone shows it.'),
    "set": Spec("NAME VALUE", "Change a parameter of method, sampling or limits."),
    "params": Spec("", "Show every parameter and where its value comes from."),
    "why": Spec("", "Show each attempt at each segment of the last answer."),
    "stats": Spec("", "Show tokens, attempts, forced segments and speed."),
    "save": Spec("[FILE] [--kv]", "Copy the conversation; --kv with the model's state."),
    "load": Spec("FILE", "Go on with a copy of a saved conversation."),
    "reset": Spec("", "Begin anew; the system message stays."),
    "exit": Spec("", "Leave. Ctrl-D does too."),
}


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it was typed; the argument without the space around it."""

    name: str
    argument: str = ""


def parse(line: str) -> Command | str:
    """The command of a line, or the question that it is.

    Raises UsageError for an unknown command (with the nearest), a missing argument, or one
    that nobody asked for.
    """
    if not line.startswith("/"):
        return line
    if line.startswith("//"):
        return line[1:]
    name, _, rest = line[1:].partition(" ")
    name, argument = name.strip().lower(), rest.strip()
    if "\n" in name:
        name, _, more = name.partition("\n")
        argument = f"{more} {argument}".strip()
    spec = COMMANDS.get(name)
    if spec is None:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them"
        raise UsageError(f"no command /{name}: {hint} (// begins a question with a slash)")
    if spec.required and not argument:
        raise UsageError(f"/{name} needs {spec.argument}")
    if argument and not spec.argument:
        raise UsageError(f"/{name} takes nothing after it: found {argument!r}")
    return Command(name, argument)


def parse_set(argument: str) -> tuple[str, str]:
    """Name and value of `/set NAME VALUE`; `NAME=VALUE` and flags read the same."""
    name, _, value = re.sub(r"[=\s]+", " ", argument, count=1).partition(" ")
    name, value = name.removeprefix("--").replace("-", "_"), value.strip()
    if not value:
        raise UsageError("/set needs NAME VALUE, for example /set temperature 0.8")
    return name, value


def parse_save(argument: str) -> tuple[str | None, bool]:
    """File, or None for one beside the session, and whether the KV state is wanted."""
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise UsageError(f"/save: {error} in {argument!r}") from error
    files = [word for word in words if word != "--kv"]
    if len(files) > 1:
        raise UsageError(f"/save takes one FILE, found {len(files)}: quote a name with spaces")
    return (files[0] if files else None), "--kv" in words
