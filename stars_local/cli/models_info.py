"""`stars-local models info`: what a model file says of itself, and what memory it takes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from stars_local.cli.models_shared import AsJson, ModelsDir, calibrated_with_defaults, mebibytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stars_local.catalog.describe import Description

_MAX_VALUE_CHARS = 100


def info_command(
    name: Annotated[
        str, typer.Argument(help="A model here, or a path.")
    ] = "SmolLM2-135M-Instruct.Q4_1",
    n_ctx: Annotated[
        int, typer.Option("--n-ctx", min=0, help="Context in tokens; 0 is the default one.")
    ] = 0,
    width: Annotated[int, typer.Option(min=1, help="Attempts decoded at once.")] = 8,
    models_dir: ModelsDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's metadata, tensors by type, chat template and estimated memory."""
    from stars_local.catalog.describe import describe
    from stars_local.catalog.resolve import resolve
    from stars_local.cli.terminal import neutralise, one_line
    from stars_local.llama.digest import model_sha256
    from stars_local.llama.gguf_check import part_paths

    found = describe(resolve(name, models_dir), n_ctx=n_ctx, width=width)
    calibrated = model_sha256(part_paths(found.path)) in calibrated_with_defaults()
    if as_json:
        content = {**asdict(found), "calibrated": calibrated}
        content["path"] = str(found.path)
        content["memory"]["total_bytes"] = found.memory.total_bytes
        typer.echo(json.dumps(_finite(content)))
        return
    for line in _lines(found, "measured" if calibrated else "none: stars-local calibrate"):
        typer.echo(one_line(line))
    typer.echo(neutralise(found.chat_template or "  (none: a plain format is used)"))


def _lines(found: Description, calibration: str) -> Iterator[str]:
    yield f"file          {found.path}" + (f" and {found.n_files - 1} parts" * (found.n_files > 1))
    yield f"size          {mebibytes(found.size_bytes)}"
    yield f"model         {found.name or '(no name)'}, {found.architecture}, {found.quant}"
    yield f"context       {found.n_ctx_train} tokens as trained; {found.n_vocab} in the vocabulary"
    memory = found.memory
    kv = mebibytes(memory.kv_bytes) or "unknown"
    total = mebibytes(memory.total_bytes) or "unknown"
    yield (
        f"memory        about {total} at {memory.n_ctx} tokens and width {memory.width}: weights "
        f"{mebibytes(memory.weights_bytes)}, keys and values {kv}, logits "
        f"{mebibytes(memory.logits_bytes)}; working buffers on top"
    )
    yield f"calibration   {calibration}, with the default reward model"
    yield "tensors"
    for kind in found.tensor_types:
        yield f"  {kind.type:8} {kind.n_tensors:5}  {mebibytes(kind.n_bytes)}"
    yield "metadata"
    for key, value in found.metadata.items():
        if key != "tokenizer.chat_template":
            text = " ".join(str(value).split())
            cut = "…" if len(text) > _MAX_VALUE_CHARS else ""
            yield f"  {key} = {text[:_MAX_VALUE_CHARS]}{cut}"
    for key, length in found.array_lengths.items():
        yield f"  {key} = [{length} items]"
    yield "chat template"


def _finite(value: object) -> object:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
