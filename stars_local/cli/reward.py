"""`stars-local reward`: train, export, check and use reward models."""

from __future__ import annotations

import typer

from stars_local.cli.reward_average import reward_average
from stars_local.cli.reward_check import reward_check
from stars_local.cli.reward_export import reward_export
from stars_local.cli.reward_score import reward_score
from stars_local.cli.reward_teach import reward_teach
from stars_local.cli.reward_train import reward_train

app = typer.Typer(
    help="Train, export, check and use reward models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.command("train")(reward_train)
app.command("teach")(reward_teach)
app.command("average")(reward_average)
app.command("export")(reward_export)
app.command("check")(reward_check)
app.command("score")(reward_score)
