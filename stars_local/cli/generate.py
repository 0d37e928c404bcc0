"""`stars-local generate`: one prompt in, one answer out.

stdout carries the product only: the answer as its segments are accepted and a final newline;
with --json one object; with --events a line an attempt as it happens (`output.attempt_object`)
and as the last line that object, marked `"event": "result"`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Annotated, Any, BinaryIO

import typer

from stars_local.cli.lazy import EXIT_INTERRUPTED
from stars_local.cli.options import with_settings
from stars_local.cli.terminal import TextWriter, interrupting
from stars_local.config import Configured, idle_flags
from stars_local.core.errors import DataError, UsageError
from stars_local.core.events import Event, Finished, Judged, Kept
from stars_local.core.records import Finish, Result
from stars_local.method_settings import recorded_params, spec_of
from stars_local.output import attempt_object, to_line

MAX_PROMPT_BYTES = 16 * 1024 * 1024

Write = Callable[[str], None]
Describe = Callable[[Result], Mapping[str, Any]]


@with_settings
def generate(
    configured: Configured,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="What to answer; from standard input where it is left out or '-'.",
            metavar="[PROMPT]",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with everything.")
    ] = False,
    as_events: Annotated[
        bool, typer.Option("--events", help="Print a JSON line per attempt as it happens.")
    ] = False,
) -> None:
    """Answer one prompt: text on standard output and nothing else."""
    if as_json and as_events:
        raise UsageError("--json and --events are both given: choose one")
    text = read_prompt(prompt, sys.stdin.buffer, from_terminal=sys.stdin.isatty())
    from stars_local import compose
    from stars_local.cli.thresholds import measure_widths, thresholds_for

    for flag in idle_flags(configured):
        print(f"stars-local: {flag} has no effect on this method", file=sys.stderr)
    settings = configured.settings
    seed = compose.random_seed() if settings.seed is None else settings.seed
    with compose.open_models(settings, scores=spec_of(settings).scores) as models:
        thresholds = thresholds_for(settings, models)
        measure_widths(settings, models)
        question = compose.user_prompt(text, settings)
        task = compose.make_task(question, settings, models, thresholds=thresholds, seed=seed)
        params = recorded_params(settings, thresholds)
        driver = compose.open_driver(models)

        def describe(result: Result) -> Mapping[str, Any]:
            return compose.describe(result, params, models)

        show = _events_lines if as_events else _json_line if as_json else _plain_text
        with interrupting(driver.interrupt), closing(driver.stream(task)) as events:
            result = show(events, TextWriter(sys.stdout).write, describe)
    if result.finish_reason is Finish.INTERRUPTED:
        raise typer.Exit(EXIT_INTERRUPTED)


def read_prompt(argument: str | None, stdin: BinaryIO, *, from_terminal: bool) -> str:
    """The prompt from its argument, or from standard input without its last newline.

    Raises UsageError where there is none, DataError where it is not text.
    """
    if argument is not None and argument != "-":
        text = argument
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError("the PROMPT is not valid UTF-8: give it as text") from error
    elif from_terminal and argument is None:
        raise UsageError("there is no prompt: give PROMPT, or pipe one to standard input")
    else:
        text = _decode(stdin.read(MAX_PROMPT_BYTES + 1)).removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise UsageError("the prompt is empty: give PROMPT, or pipe one to standard input")
    return text


def _decode(raw: bytes) -> str:
    if len(raw) > MAX_PROMPT_BYTES:
        raise DataError(f"standard input is longer than {MAX_PROMPT_BYTES} bytes: shorten it")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input is not valid UTF-8: byte 0x{raw[error.start]:02x} at offset "
            f"{error.start}: convert it to UTF-8"
        ) from error


def _plain_text(events: Iterator[Event], write: Write, describe: Describe) -> Result:
    """Print text as it becomes final, and a newline however it ends."""
    try:
        for event in events:
            if isinstance(event, Kept):
                write(event.printable)
            elif isinstance(event, Finished):
                write(event.printable)
                result = event.result
    finally:
        write("\n")
    return result


def _json_line(events: Iterator[Event], write: Write, describe: Describe) -> Result:
    """Print the object of the answer once it has ended."""
    result = next(event.result for event in events if isinstance(event, Finished))
    write(to_line(describe(result)) + "\n")
    return result


def _events_lines(events: Iterator[Event], write: Write, describe: Describe) -> Result:
    """Print each attempt as it is judged, and at last the object of the answer."""
    for event in events:
        if isinstance(event, Judged):
            write(to_line(attempt_object(event.attempt)) + "\n")
        elif isinstance(event, Finished):
            result = event.result
            write(to_line({"event": "result", **describe(result)}) + "\n")
    return result
