"""The shared options as command-line flags, from their one definition in `settings`.

    @with_settings
    def generate(configured: Configured, prompt: ...) -> None: ...

The decorated function shows its own parameters and every shared option; `configured` is filled
from flags, environment, file and defaults. `--print-config` prints that and ends.
"""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from stars_local.config import configure, flag_of, to_toml
from stars_local.settings import OPTIONS, Kind, Option, Settings

_DEFAULTS = Settings()
_CONFIG, _PRINT_CONFIG = "config", "print_config"


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all shared options, gathered into its parameter `configured`.

    An option that the command has itself, in its own way, is left to it.
    """
    own = dict(inspect.signature(command, eval_str=True).parameters)
    del own["configured"]
    names = [name for name in OPTIONS if name not in own]
    shared = {name: _parameter(name, OPTIONS[name]) for name in names}
    shared[_CONFIG] = _extra(_CONFIG, Path, "Settings from a file, TOML or YAML.", "FILE", None)
    shared[_PRINT_CONFIG] = _extra(
        _PRINT_CONFIG, bool, "Print each value and where it comes from.", None, False
    )

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        file, show = values.pop(_CONFIG), values.pop(_PRINT_CONFIG)
        flags = {name: values.pop(name) for name in names}
        given = {name: value for name, value in flags.items() if value not in (None, [], ())}
        configured = configure(given, os.environ, file)
        if show:
            typer.echo(to_toml(configured), nl=False)
            return
        command(configured=configured, **values)

    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for each in (*own.values(), *shared.values())
    ]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapper


def _parameter(name: str, option: Option) -> inspect.Parameter:
    """The flag of one option; its text is read by `settings.read_value`, like all sources."""
    default = getattr(_DEFAULTS, name)
    shown = option.unset if default is None else default
    note = f" Default: {shown}." if shown != () else ""
    annotation = list[str] if option.kind is Kind.LIST else str
    info = typer.Option(
        flag_of(name),
        help=option.help + note,
        metavar=option.metavar,
        show_default=False,
        rich_help_panel=option.panel,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[typing.Optional[annotation], info],  # noqa: UP045
    )


def _extra(
    name: str, annotation: Any, help: str, metavar: str | None, default: object
) -> inspect.Parameter:
    info = typer.Option(
        flag_of(name), help=help, metavar=metavar, rich_help_panel="Settings", show_default=False
    )
    wanted = annotation if annotation is bool else typing.Optional[annotation]  # noqa: UP045
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[wanted, info],
    )
