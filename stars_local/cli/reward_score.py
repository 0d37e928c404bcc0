"""`stars-local reward score`: rewards for responses that are already there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from stars_local.cli.terminal import neutralise
from stars_local.core.errors import DataError, StarsError

if TYPE_CHECKING:
    from stars_local.core.records import Prompt
    from stars_local.reward.onnx_model import OnnxRewardModel


def reward_score(
    file: Annotated[
        Path | None,
        typer.Argument(help="JSON lines of prompt and response.", show_default="standard input"),
    ] = None,
    reward: Annotated[
        str, typer.Option(help="A shipped name, or a folder.", metavar="NAME|DIR")
    ] = "hh-minilm",
    provider: Annotated[str, typer.Option(help="auto, cpu, cuda or coreml.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Score responses: the same JSON lines come out, in order, with `rewards` by axis.

    A prompt is a text or a list of messages. A line that cannot be scored is named by its
    number on stderr and left out; the rest is scored, and the exit code is 1.
    """
    from stars_local.compose import render_chat
    from stars_local.reward.onnx_model import OnnxRewardModel
    from stars_local.reward.resolve import find_model

    folder, shipped = find_model(reward)
    model = OnnxRewardModel(
        folder, provider=provider, threads=threads, trusted=shipped, render=render_chat
    )
    n_lines, n_bad = 0, 0
    with _lines_of(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            n_lines += 1
            try:
                scored = _scored(model, line, f"line {number}")
            except StarsError as error:
                n_bad += 1
                print(f"stars-local: {neutralise(str(error))}", file=sys.stderr)
            else:
                sys.stdout.buffer.write(scored)
                sys.stdout.buffer.flush()
    if n_bad:
        raise DataError(f"{n_bad} of {n_lines} lines could not be scored")


def _scored(model: OnnxRewardModel, line: bytes, where: str) -> bytes:
    import json

    values, (prompt, response) = _read_line(line, where)
    try:
        found = model.score([(prompt, response)]).rewards[0].axes
    except StarsError as error:
        raise type(error)(f"{where}: {error}") from error
    values["rewards"] = {axis: round(value, 6) for axis, value in found.items()}
    try:
        return f"{json.dumps(values, ensure_ascii=False, allow_nan=False)}\n".encode()
    except ValueError as error:
        raise DataError(f"{where}: not JSON that can be written again: {error}") from error


def _read_line(line: bytes, where: str) -> tuple[dict[str, Any], tuple[Prompt, str]]:
    from stars_local.core.strict_json import parse_json
    from stars_local.reward.score_lines import read_item

    try:
        values = parse_json(line.decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(values).__name__}")
    return values, read_item(values, where)


@contextlib.contextmanager
def _lines_of(file: Path | None) -> Iterator[Iterator[bytes]]:
    """Bytes, so that one line that is not UTF-8 does not end the others."""
    if file is None or str(file) == "-":
        stream: TextIO = sys.stdin
        yield iter(stream.buffer)
        return
    try:
        opened = file.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    with opened:
        yield iter(opened)
