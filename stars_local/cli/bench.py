"""`stars-local bench`: how fast, each figure against what it is divided by."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from stars_local.core.errors import UsageError

_RUNS, _QUICK_RUNS = 7, 3


def bench(
    model: Annotated[
        str | None, typer.Option(help="GGUF file or known name; Q4_0 and BF16 are made from it.")
    ] = None,
    reward: Annotated[
        str, typer.Option(help="Reward model: shipped name or folder.")
    ] = "hh-minilm",
    only: Annotated[
        list[str] | None, typer.Option(help="Run this group only; may be given again.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Under a minute: the first two groups.")] = False,
    runs: Annotated[int | None, typer.Option(help="Counted runs of each contender.", min=1)] = None,
    threads: Annotated[int, typer.Option(help="Threads; 0 for every usable core.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure speed: interleaved pairs, medians, each figure with what it is divided by.

    Leave the machine alone meanwhile: anything else that runs shows up in the figures.
    """
    from rich.console import Console

    from stars_local.bench.figures import machine, versions
    from stars_local.bench.groups import GROUPS, QUICK, Bench
    from stars_local.catalog.resolve import resolve
    from stars_local.compose import cache_folder, open_reward_model
    from stars_local.settings import Settings

    wanted = list(only) if only else list(QUICK if quick else GROUPS)
    for name in wanted:
        if name not in GROUPS:
            raise UsageError(f"no group {name!r}: use {', '.join(GROUPS)}")
    commentary = Console(stderr=True)
    path = resolve(model)
    cache = cache_folder()
    counted = runs if runs is not None else (_QUICK_RUNS if quick else _RUNS)
    run = Bench(
        path,
        lambda: open_reward_model(Settings(reward=reward)),
        cache / "bench",
        cache / "speed",
        counted,
        threads,
        lambda line: commentary.print(line, style="dim"),
    )
    figures = []
    for name in wanted:
        commentary.print(f"group {name}", style="bold")
        for figure in GROUPS[name](run):
            figures.append(figure)
            if not as_json:
                _print(figure)
    about: dict[str, Any] = {"machine": machine(), "versions": versions()}
    if as_json:
        about["figures"] = [figure.to_json() for figure in figures]
        typer.echo(json.dumps(about, indent=1, allow_nan=False))
    else:
        typer.echo(f"\n{path.name} on {about['machine']}, {about['versions']}")


def _print(figure: Any) -> None:
    versus = f" of {figure.versus}" if figure.versus else ""
    typer.echo(
        f"{figure.name}{versus}\n    {figure.value:.4g} {figure.unit}"
        f"  (min {figure.min:.4g}, max {figure.max:.4g}, {figure.runs} runs)"
    )
