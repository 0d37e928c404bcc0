"""`stars-local reward teach`: soft labels for preference pairs, from a language model's states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stars_local.cli.reward_train import Exclude
from stars_local.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from stars_local.preferences.pairs import Pair
    from stars_local.training.teacher import Teacher


def reward_teach(
    model: Annotated[
        Path, typer.Argument(help="GGUF file of a language model, the larger the better.")
    ],
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="AXIS=PATH,licence=NAME[,...] as in 'reward train': pairs that people ranked; "
            "one axis; repeat for more.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write, JSON lines.", show_default=False)],
    unlabelled: Annotated[
        list[str] | None,
        typer.Option(
            help="More pairs, written like --data: their own ranking is not looked at.",
            show_default=False,
        ),
    ] = None,
    exclude: Exclude = None,
    max_prompt_tokens: Annotated[
        int, typer.Option(min=1, max=256, help="Last tokens of the prompt that are read.")
    ] = 96,
    max_response_tokens: Annotated[
        int, typer.Option(min=1, max=256, help="First tokens of a response that are read.")
    ] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: every core.")] = 0,
) -> None:
    """Let a language model teach a smaller reward model what it knows.

    Fits one linear layer on the model's frozen states to pairs that people ranked, and writes all
    pairs with `margin`: the log-odds by which it prefers the chosen response, measured on prompts
    that took no part. Give OUT to 'reward train' beside the pairs themselves. OUT.card.json says
    what it was made of, and how often it agrees with people.
    """
    from stars_local.catalog.same_file import the_file_that_came
    from stars_local.cli.progress import stages
    from stars_local.core.files import write_atomically
    from stars_local.llama.states import StatesModel
    from stars_local.preferences.sources import SourceSpec, load_sources
    from stars_local.training.teacher import features, fit_teacher

    specs = [SourceSpec.parse(text) for text in data]
    more = [SourceSpec.parse(text) for text in unlabelled or ()]
    axes = sorted({spec.axis for spec in [*specs, *more]})
    if len(axes) != 1:
        raise UsageError(f"axes {', '.join(axes)}: teach one at a time")
    names = {spec.name for spec in specs}
    the_file_that_came(model)
    read = load_sources([*specs, *more], exclude or (), seed)
    ranked = [pair for pair in read.pairs if pair.source in names]
    others = [pair for pair in read.pairs if pair.source not in names]
    limits = {"max_prompt_tokens": max_prompt_tokens, "max_response_tokens": max_response_tokens}
    with (
        StatesModel(model, window=sum(limits.values()), n_threads=threads) as states,
        stages() as advance,
    ):
        found = []
        for pair in [*ranked, *others]:
            found.append(features(states, pair, **limits))
            advance("reading pairs", len(found), len(read.pairs))
        teacher = fit_teacher(
            ranked, found[: len(ranked)], seed, lambda done, total: advance("fitting", done, total)
        )
        about = {
            "schema": 1,
            "axis": axes[0],
            "model": {"name": model.name, "sha256": states.info.sha256},
            **limits,
            "seed": seed,
            "penalty": teacher.penalty,
            "temperature": teacher.temperature,
            "agreement_with_people": teacher.accuracy.to_json(),
            "sources": read.sources,
            "test_files": read.test_files,
        }
    margins = [*teacher.margins, *(teacher.margin(*each) for each in found[len(ranked) :])]
    text = "".join(_lines([*ranked, *others], margins))
    try:
        write_atomically(out, text.encode("utf-8"))
        write_atomically(
            card_of(out), json.dumps(about, indent=1, allow_nan=False).encode() + b"\n"
        )
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error}: give another --out") from error
    typer.echo(_summary(teacher, len(others), out))


def card_of(out: Path) -> Path:
    """Where the facts about a file of soft labels stand."""
    return out.with_name(f"{out.name}.card.json")


def _lines(pairs: Sequence[Pair], margins: Sequence[float]) -> Iterator[str]:
    """The better response first, as the teacher sees it."""
    for pair, margin in zip(pairs, margins, strict=True):
        better, worse = pair.chosen, pair.rejected
        if margin < 0:
            better, worse = worse, better
        row: dict[str, Any] = {
            "prompt": [{"role": role, "content": content} for role, content in pair.prompt],
            "chosen": better,
            "rejected": worse,
            "margin": round(abs(float(margin)), 6),
        }
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _summary(teacher: Teacher, n_others: int, out: Path) -> str:
    found = teacher.accuracy
    low, high = found.ci95
    agrees = f"agrees with people on {found.accuracy:.3f} [{low:.3f}, {high:.3f}]"
    return (
        f"{agrees} of {found.pairs} pairs of prompts that took no part\n"
        f"wrote {out}: {found.pairs} pairs, and {n_others} that nobody ranked"
    )
