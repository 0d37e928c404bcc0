"""The command line: `stars-local COMMAND`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import typer

from stars_local.cli.lazy import Debug, LazyGroup, Target
from stars_local.core.interrupts import hear_interrupts


class _Root(LazyGroup):
    """All commands, in the order of the help page; one whose module is absent is not shown."""

    targets: ClassVar[dict[str, Target]] = {
        "chat": Target("stars_local.cli.chat", "chat", "Talk to a model; watch its segments."),
        "generate": Target("stars_local.cli.generate", "generate", "Answer one prompt."),
        "eval": Target("stars_local.cli.eval", "evaluate", "Compare methods over prompts."),
        "sweep": Target("stars_local.cli.sweep", "sweep", "Vary a method's parameters."),
        "eval merge": Target("stars_local.cli.eval_runs", "merge", "Join the shards of a run."),
        "eval judge": Target("stars_local.cli.eval_runs", "judge", "Add judges to a finished run."),
        "eval agreement": Target(
            "stars_local.cli.agreement", "agreement", "Hold refusal rules against people."
        ),
        "report": Target("stars_local.cli.report", "report", "Show evaluation runs on a page."),
        "quants": Target("stars_local.cli.quants", "app", "Make, compare and choose quants."),
        "models": Target("stars_local.cli.models", "app", "Fetch, check and list model files."),
        "reward": Target("stars_local.cli.reward", "app", "Train, export and check rewards."),
        "calibrate": Target(
            "stars_local.cli.calibrate", "calibrate", "Measure thresholds for a pair of models."
        ),
        "bench": Target("stars_local.cli.bench", "bench", "Time the engine on this machine."),
        "bundle": Target(
            "stars_local.cli.bundle", "app", "Carry all to a machine without network."
        ),
        "doctor": Target("stars_local.cli.doctor", "doctor", "Say what works here, and why."),
    }


app = typer.Typer(
    cls=_Root,
    name="stars-local",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(version("stars-local"))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Debug = False,
) -> None:
    """Aligned answers from quantised models: every segment accepted by a reward model."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main() -> None:
    """The console script: exits with 0 done, 1 our error, 2 usage, 130 interrupted."""
    hear_interrupts()
    app()
