"""`stars-local reward export`: a network to a folder that decoding reads."""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from stars_local.core.errors import StarsError, UsageError

if TYPE_CHECKING:
    from stars_local.preferences.pairs import Pair

Choice = TypeVar("Choice", bound=StrEnum)
_PACKAGES = ("torch", "transformers", "safetensors", "onnx")
_COLUMN = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=(\d+)(?:-(\d+))?")


def reward_export(
    source: Annotated[
        Path,
        typer.Argument(help="A checkpoint of 'reward train', or a Hugging Face folder."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8 weights.")] = "fp32",
    name: Annotated[
        str | None, typer.Option(help="Name of the model.", show_default="that of OUT")
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(
            help="NAME=COLUMN,... of the network's output; COLUMN-COLUMN is a difference.",
            show_default="what the source says",
        ),
    ] = None,
    negate: Annotated[
        list[str] | None,
        typer.Option(help="An axis whose output says how bad a response is; repeat."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="hh, plain, chatml or tokenizer.", show_default="what the source says"),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            help="single: one text; pair: prompt and response.",
            show_default="what the source says",
        ),
    ] = None,
    response_end: Annotated[
        str | None,
        typer.Option(
            help="Text behind the response, such as a step's separator.",
            show_default="by the template",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=8, help="Longest text.", show_default="the source's limit"),
    ] = None,
    cut: Annotated[str, typer.Option(help="Side cut off a text too long: left or right.")] = "left",
    past: Annotated[
        bool | None,
        typer.Option(
            "--past/--no-past",
            help="Of a decoder: take past keys and values, so that a text that goes on costs only "
            "what is new.",
            show_default="where they equal torch",
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights.", show_default="what the card says")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Answers that set mean and spread: JSON lines of prompt and response, or a "
            "preference file.",
            show_default="plain answers that come with the program",
        ),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            help="AXIS=FILE[,name=NAME][,prompts=CSV]: labelled pairs, for the accuracy in the "
            "manifest and what int8 may lose; repeat, pooling what has one name.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Export a reward network to ONNX, and prove that it is still the same network.

    Held against torch on varied lengths and batches; int8 and fp16 against fp32. Nothing is
    written where they differ too much. Needs the extra 'train'.
    """
    _require_packages()
    from stars_local.compose import render_chat
    from stars_local.exporting.export import export_reward
    from stars_local.exporting.export_manifest import ExportOptions
    from stars_local.exporting.reference import reference_texts
    from stars_local.reward.manifest import Cut, Form, Style

    options = ExportOptions(
        name=out.resolve().name if name is None else name,
        precision=precision,
        axes=None if axes is None else parse_axes(axes),
        negated=frozenset(negate or ()),
        style=None if template is None else _one_of(Style, "--template", template),
        form=None if form is None else _one_of(Form, "--form", form),
        response_end=response_end,
        max_tokens=max_tokens,
        cut=_one_of(Cut, "--cut", cut),
        licence=licence,
        past=past,
    )
    labelled: dict[str, list[Pair]] = {}
    for text in pairs or ():
        title, read = parse_pairs(text)
        labelled.setdefault(title, []).extend(read)
    try:
        made = export_reward(
            source,
            out,
            options,
            reference_texts(reference),
            labelled,
            lambda line: print(line, file=sys.stderr, flush=True),
            render_chat,
        )
    except OSError as error:
        raise StarsError(f"cannot write {out}: {error}") from error
    manifest = made.manifest
    size = (out / manifest.model_file).stat().st_size
    typer.echo(
        f"{out}: {manifest.name} {manifest.revision}, {manifest.precision}, {size / 1e6:.1f} MB, "
        f"axes {', '.join(axis.name for axis in manifest.axes)}"
    )
    if not manifest.batch_invariant:
        typer.echo("its scores depend on the batch: texts will be scored one at a time")


def parse_axes(text: str) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Read ``NAME=COLUMN,NAME=COLUMN-COLUMN``; UsageError says what is wrong with it."""
    found: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    for part in text.split(","):
        match = _COLUMN.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"--axes {text!r}: {part!r} is not NAME=COLUMN or NAME=COLUMN-COLUMN")
        minus = () if match[3] is None else (int(match[3]),)
        found.append((match[1], (int(match[2]),), minus))
    return found


def parse_pairs(text: str) -> tuple[str, list[Pair]]:
    """Read ``AXIS=FILE[,name=NAME][,prompts=CSV]`` and the file; UsageError where wrong."""
    from stars_local.preferences.pairs import read_pairs

    head, *rest = text.split(",")
    axis, _, file = head.partition("=")
    values = dict(part.partition("=")[::2] for part in rest)
    if not axis or not file or set(values) - {"name", "prompts"}:
        raise UsageError(f"--pairs {text!r}: expected AXIS=FILE[,name=NAME][,prompts=CSV]")
    path = Path(file)
    prompts = Path(values["prompts"]) if "prompts" in values else None
    read = list(read_pairs(path, axis, prompts=prompts))
    if not read:
        raise UsageError(f"{path}: no pairs in it")
    return values.get("name", f"{path.parent.name}/{path.name}"), read


def _one_of(kind: type[Choice], option: str, text: str) -> Choice:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{option} {text!r}: expected one of {', '.join(kind)}") from None


def _require_packages() -> None:
    import importlib.util

    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{missing[0]} is not installed: run pip install 'stars-local[train]' to export"
        )
