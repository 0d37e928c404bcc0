"""`stars-local bench`: how fast, each figure against what it is divided by."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stars_local.cli.terminal import neutralise

if TYPE_CHECKING:
    from stars_local.core.ports import RewardModel

_RUNS, _QUICK_RUNS = 7, 3
# the names of `stars_local.bench.groups`, which are too heavy to import for a help page
_GROUPS = (
    "engine, vanilla, lockstep, best-of, answers, cards, costs, attention, decoder, overlap, "
    "profile, rollback, streams"
)


def bench(
    model: Annotated[
        str | None, typer.Option(help="GGUF file or known name; Q4_0 and BF16 are made from it.")
    ] = None,
    reward: Annotated[
        str, typer.Option(help="Reward model: shipped name or folder.")
    ] = "hh-minilm",
    only: Annotated[
        list[str] | None, typer.Option(help=f"Run this group only; may be given again: {_GROUPS}.")
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="Under a minute: the first two groups, smaller.")
    ] = False,
    runs: Annotated[int | None, typer.Option(help="Counted runs of each contender.", min=1)] = None,
    threads: Annotated[int, typer.Option(help="Threads; 0 for every usable core.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure speed: interleaved pairs, medians, each figure with what it is divided by.

    Leave the machine alone meanwhile: anything else that runs shows up in the figures.
    """
    from dataclasses import replace

    from rich.console import Console

    from stars_local.bench.figures import machine, versions
    from stars_local.bench.groups import GROUPS, choose, n_turns
    from stars_local.bench.plan import QUICK_SIZES, Bench, Sizes
    from stars_local.catalog.resolve import resolve
    from stars_local.catalog.same_file import the_file_that_came
    from stars_local.cli.progress import stages
    from stars_local.compose import WIDEST_AUTO
    from stars_local.llama.disk_cache import cache_folder

    wanted = choose(only, quick=quick)
    commentary = Console(stderr=True)

    def say(line: str) -> None:
        shown = neutralise(line)
        commentary.print(shown, style="dim", highlight=False, markup=False, emoji=False)

    path = the_file_that_came(resolve(model))
    cache = cache_folder()
    counted = runs if runs is not None else (_QUICK_RUNS if quick else _RUNS)
    run = Bench(
        path,
        lambda: _reward_model(reward, say),
        cache / "bench",
        cache / "speed",
        counted,
        threads,
        say,
        WIDEST_AUTO,
        QUICK_SIZES if quick else Sizes(),
    )
    figures = []
    total = n_turns(run, wanted)
    with stages(commentary) as advance:
        done = iter(range(1, total + 1))
        ticking = replace(run, tick=lambda: advance("turns of contenders", next(done), total))
        for name in wanted:
            say(f"group {name}: {GROUPS[name].about}")
            for figure in GROUPS[name].figures(ticking):
                figures.append(figure)
                if not as_json:
                    _print(figure)
    about: dict[str, Any] = {"machine": machine(), "versions": versions()}
    if as_json:
        about["figures"] = [figure.to_json() for figure in figures]
        typer.echo(json.dumps(about, indent=1, allow_nan=False))
    else:
        where, what = about["machine"], about["versions"]
        typer.echo(
            f"\n{neutralise(path.name)}: {where['processor']}, {where['cores']} cores, "
            f"{where['system']}"
        )
        typer.echo(", ".join(f"{name} {version}" for name, version in what.items()))


def _reward_model(name: str, say: Callable[[str], None]) -> RewardModel:
    """The reward model, once it has shown that it gives the scores it should."""
    from stars_local.compose import open_reward_model
    from stars_local.reward.check import check_before_run
    from stars_local.settings import Settings

    settings = Settings(reward=name)
    found = open_reward_model(settings)
    for line in check_before_run(found, settings.provider):
        say(line)
    return found


def _print(figure: Any) -> None:
    versus = f" of {figure.versus}" if figure.versus else ""
    typer.echo(
        f"{figure.name}{versus}\n    {figure.value:.4g} {figure.unit}"
        f"  (min {figure.min:.4g}, max {figure.max:.4g}, {figure.runs} runs)"
    )
