"""A command group that imports a command's module only when the command is called for.

Listing the commands reads a table of names and one-line helps. Errors become one line on
stderr and an exit code: 1 ours, 2 usage, 130 interrupted; `--debug`, which every command
takes, shows the traceback as well.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from stars_local.cli.terminal import neutralise
from stars_local.core.errors import StarsError

if TYPE_CHECKING:
    from typer._click.core import Command, Context
    from typer._click.formatting import HelpFormatter

EXIT_INTERRUPTED = 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a command lives: `attribute` of `module` is a function or a `typer.Typer`."""

    module: str
    attribute: str
    help: str

    @property
    def exists(self) -> bool:
        """Whether the module can be imported; its packages are, the module is not."""
        return importlib.util.find_spec(self.module) is not None


class SectionedCommand(TyperCommand):
    """A command whose help shows its options under the headings of their panels."""

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the arguments, then the options by panel in order of appearance."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                panel = getattr(param, "rich_help_panel", None)
                default = "Arguments" if param.param_type_name == "argument" else "Options"
                sections.setdefault(panel or default, []).append(record)
        for name, rows in sections.items():
            with formatter.section(name):
                formatter.write_dl(rows)


class LazyGroup(TyperGroup):
    """The root group. Subclasses fill `targets`, in the order of the help page.

    A name of two words, `eval merge`, is a command below another that takes no arguments.
    """

    targets: ClassVar[dict[str, Target]]
    debug = False

    def list_commands(self, ctx: Context) -> list[str]:
        """The names of the commands whose modules are there."""
        return [name for name, target in self.targets.items() if target.exists]

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """A stand-in with name and help, enough to list and complete."""
        target = self.targets.get(cmd_name)
        if target is None or not target.exists:
            return None
        return TyperCommand(cmd_name, help=target.help, rich_markup_mode=None)

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        """Import the command that is called; a wrong name is answered with the nearest."""
        self.commands = dict.fromkeys(self.list_commands(ctx), TyperCommand(None))
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and rest and f"{name} {rest[0]}" in self.targets:
            name, rest = f"{name} {rest[0]}", rest[1:]
        if name is not None and command is not None:
            command = load_command(name, self.targets[name])
        return name, command, rest

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and leave the process with the exit code; see the module's docstring."""

        def run() -> Any:
            return TyperGroup.main(
                self,
                args,
                prog_name or "stars-local",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        if not standalone_mode:
            return run()
        sys.exit(self._guarded(run))

    def _guarded(self, run: Callable[[], Any]) -> int:
        """Call, and turn whatever ends it into an exit code and at most one line on stderr."""
        _open_closed()
        if sys.stdout is None:
            return self._fail("standard output is closed: send it to /dev/null to see none", 1)
        try:
            code = run()
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except typer.Abort:
            return EXIT_INTERRUPTED
        except (StarsError, typer.TyperException) as error:
            message = error.format_message() if not isinstance(error, StarsError) else str(error)
            return self._fail(message, error.exit_code)
        except BrokenPipeError:
            _drop_stdout()  # whoever read it has left
            return 1
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                _drop_stdout()
                return self._fail(f"cannot write the output: {error.strerror}: make room", 1)
            hint = "" if self.debug else "; --debug shows where"
            return self._fail(f"internal error: {type(error).__name__}: {error}{hint}", 1)

    def _fail(self, message: str, code: int) -> int:
        if self.debug:
            print(neutralise(traceback.format_exc()), end="", file=sys.stderr)
        line = neutralise(" ".join(message.split()))
        print(f"stars-local: {line}", file=sys.stderr)
        return code


def _open_closed() -> None:
    """Where stdin or stderr is closed, nothing is read or told; a file must not get its number."""
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")


def _drop_stdout() -> None:
    """Give the interpreter something to flush into when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def load_command(name: str, target: Target) -> Command:
    """Import a command and give it, and every command below it, the option `--debug`."""
    found = getattr(importlib.import_module(target.module), target.attribute)
    if isinstance(found, typer.Typer):
        found.rich_markup_mode = None
        command = get_command(found)
    else:
        holder = typer.Typer(add_completion=False, rich_markup_mode=None)
        holder.command(name, cls=SectionedCommand)(found)
        command = get_command(holder)
    command.name = name
    _add_debug(command)
    return command


def _add_debug(command: Command) -> None:
    if isinstance(command, TyperGroup):
        for child in command.commands.values():
            _add_debug(child)
    else:
        command.params.append(_debug_option())


def note_debug(ctx: typer.Context, value: bool) -> None:
    """The callback of `--debug`: the root group remembers it."""
    root = ctx.find_root().command
    if value and isinstance(root, LazyGroup):
        root.debug = True


Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Show the traceback of an error.",
        callback=note_debug,
        is_eager=True,
        expose_value=False,
    ),
]


def _carrier(debug: Debug = False) -> None:
    """Carries the option."""


def _debug_option() -> Any:
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command()(_carrier)
    return get_command(holder).params[0]
