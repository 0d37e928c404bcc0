"""`stars-local quants advise`: which file to run on this machine."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stars_local.cli.models_shared import AsJson
from stars_local.core.errors import StarsError, UsageError

if TYPE_CHECKING:
    from stars_local.quants.timing import Speed

_N_CTX = 512  # of each prompt's part of the context: a prompt to prefill, and a few steps


def advise_command(
    files: Annotated[
        list[Path], typer.Argument(help="Files of one model; with --types their source alone.")
    ],
    types: Annotated[
        str | None, typer.Option(help="Make these types of the file, and time them with it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder for the files of --types.")] = None,
    width: Annotated[int, typer.Option(help="Attempts drawn in one batch.", min=1, max=64)] = 4,
    cohort: Annotated[int, typer.Option(help="Prompts drawn together.", min=1, max=80)] = 1,
    threads: Annotated[int, typer.Option(help="Threads; 0 for all cores.", min=0)] = 0,
    gpu_layers: Annotated[int, typer.Option(help="Layers on the GPU; -1 is all.", min=-1)] = -1,
    seconds: Annotated[float, typer.Option(help="How long to time at most.", min=1, max=120)] = 120,
    as_json: AsJson = False,
) -> None:
    """Time each file on this machine at the width in use, and say in one line which to run.

    Two minutes at most. Speed alone: what each file lost is told by `quants compare`.
    """
    from stars_local.cli.progress import stages
    from stars_local.cli.quants_files import check_alike, make_types
    from stars_local.cli.terminal import neutralise
    from stars_local.llama.limits import need_sequences
    from stars_local.quants.advise import advise, race
    from stars_local.quants.listing import list_file
    from stars_local.quants.make import parse_types

    n_sequences = cohort * (width + 1)
    need_sequences(n_sequences, cohort, width, "--cohort or --width")
    if types is not None:
        wanted = parse_types(types)
        if len(files) != 1 or out is None:
            raise UsageError("--types: give one file, their source, and --out for the folder")
        check_alike(files[0], ())
        made = make_types(files[0], wanted, out, threads=threads)
        files = [files[0], *(each.listing.path for each in made)]
    elif out is not None:
        raise UsageError("--out is for the files of --types: leave it out")
    check_alike(files[0], files[1:])

    def measure(path: Path) -> Speed:
        return _measure(path, width, cohort, threads, gpu_layers)

    with stages() as advance:
        timed = race(
            [list_file(path) for path in files],
            measure,
            limit_s=seconds,
            clock=time.monotonic,
            on_progress=advance,
        )
    left = [each.name for each in timed if not each.runs and each.error is None]
    if left:
        print(
            f"stars-local: time was up before {neutralise(', '.join(left))}: give fewer files",
            file=sys.stderr,
        )
    said = advise(timed)
    rows = [each.as_json() for each in timed]
    if as_json:
        typer.echo(json.dumps({"files": rows, "advice": said}, allow_nan=False))
    else:
        _show(rows)
        typer.echo(neutralise(said))
    failed = [each for each in timed if each.error is not None]
    if failed:
        raise StarsError(
            f"{len(failed)} of {len(timed)} files failed, the first is {failed[0].name}: "
            f"{failed[0].error}"
        )


def _measure(path: Path, width: int, cohort: int, threads: int, gpu_layers: int) -> Speed:
    """Load one file and time it: prompts in streams of their own where each has one attempt."""
    from stars_local.llama.engine import LlamaModel
    from stars_local.quants.timing import time_model

    streams = width == 1
    with LlamaModel(
        path,
        n_ctx=_N_CTX if streams else _N_CTX * cohort,
        n_threads=threads,
        n_gpu_layers=gpu_layers,
        n_seq_max=cohort * (width + 1),
        unified=not streams,
    ) as model:
        return time_model(model, width=width, n_prompts=cohort)


def _show(rows: list[dict[str, Any]]) -> None:
    from stars_local.cli.terminal import neutralise

    for row in rows:
        parts = [f"{row['name']}: {row['size_bytes'] / 2**20:.1f} MiB"]
        parts.append(f"{row['bpw']:.2f} bits/weight")
        if "error" in row:
            parts.append(f"failed: {row['error']}")
        elif "answer_s" in row:
            rates, times = row["decode_tokens_per_s"], row["answer_s"]
            parts.append(f"prefill {row['prefill_tokens_per_s']:.0f} tokens/s")
            parts.append(f"decode {rates['one']:.0f} alone, {rates['wide']:.0f} together")
            parts.append(f"answer {times['median']:.2f} s [{times['min']:.2f}, {times['max']:.2f}]")
        else:
            parts.append("not timed")
        typer.echo(neutralise("  ".join(parts)))
