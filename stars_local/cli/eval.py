"""`stars-local eval`: methods side by side over a set of prompts."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stars_local.cli.options import with_settings
from stars_local.config import Configured
from stars_local.core.progress import OnProgress

if TYPE_CHECKING:
    from stars_local.arms import FindThresholds, Opened
    from stars_local.cli.judges import Judges
    from stars_local.core.records import Prompt
    from stars_local.evals.prompts import PromptSet
    from stars_local.evals.records import Line
    from stars_local.evals.runner import Plan, Shard
    from stars_local.evals.verdicts import Verdict
    from stars_local.settings import Settings

    Arms = tuple[Mapping[str, Settings], FindThresholds]

DEFAULT_METHODS = ("vanilla", "stars")


def finite_margin(value: float) -> float:
    """A margin that rewards can be held against. Raises BadParameter for NaN and infinity."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no margin: give a difference of rewards")
    return value


Prompts = Annotated[
    Path, typer.Option(help="The prompts: a data set's own file, JSON lines, CSV or text.")
]
Out = Annotated[Path, typer.Option(help="The folder of the run; give it again to go on.")]
Judge = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND[:PATH]",
        help="An independent judge, as often as wanted: reward:DIR, refusal, llm:GGUF (pairs), "
        "or perplexity:GGUF.",
    ),
]
Limit = Annotated[int | None, typer.Option(help="Most prompts.", min=1)]
SampleSeed = Annotated[
    int | None,
    typer.Option(help="With --limit: a random sample of the prompts, not the first."),
]
Cohort = Annotated[int, typer.Option(help="Prompts drawn together.", min=1, max=80)]
Margin = Annotated[
    float,
    typer.Option(
        help="Rewards that differ by no more are a tie, by every judge.",
        min=0.0,
        callback=finite_margin,
    ),
]
ShardOf = Annotated[str, typer.Option(metavar="I/N", help="This process's part.")]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for beside the shared options."""

    prompts: Path
    out: Path
    judges: Sequence[str]
    limit: int | None
    sample_seed: int | None
    cohort: int
    shard: str
    margin: float
    prefill: str = ""
    suffix: str = ""
    turns: int = 1


@with_settings
def evaluate(
    configured: Configured,
    prompts: Prompts,
    out: Out,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PARAM=VALUE,...]",
            help="A method to compare; as often as wanted. model, lora and reward may stand among "
            "its parameters. Default: vanilla, stars.",
        ),
    ] = None,
    arms: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Further arms from a TOML file: an [[arm]] each, with name, method and options.",
        ),
    ] = None,
    judge: Judge = None,
    limit: Limit = None,
    sample_seed: SampleSeed = None,
    cohort: Cohort = 8,
    shard: ShardOf = "1/1",
    margin: Margin = 0.0,
    prefill: Annotated[str, typer.Option(help="What every response is forced to begin with.")] = "",
    suffix: Annotated[str, typer.Option(help="Appended to every prompt.")] = "",
    turns: Annotated[
        int,
        typer.Option(
            help="2: ask the second turns of the prompts too, after each arm's own answer, as a "
            "run in OUT/turn-2; judges of pairs judge the first turn only.",
            min=1,
            max=2,
        ),
    ] = 1,
    export_pairs: Annotated[
        Path | None, typer.Option(help="Write kept against rejected segments as JSON lines.")
    ] = None,
) -> None:
    """Compare methods on the same prompts with the same seeds.

    A run that was stopped, in whatever way, goes on with the same command. The numbers stand in
    summary.json of the folder; `stars-local report` makes a page of them.
    `stars-local eval merge` joins shards, `eval judge` adds judges afterwards.
    """
    request = Request(
        prompts,
        out,
        judge or (),
        limit,
        sample_seed,
        cohort,
        shard,
        margin,
        prefill,
        suffix,
        turns,
    )
    from stars_local.arm_specs import read_arms
    from stars_local.arms import arm_settings
    from stars_local.cli.thresholds import thresholds_for
    from stars_local.evals.records import check_file

    if export_pairs is not None:
        check_file(export_pairs)
    more = () if arms is None else read_arms(arms)
    methods = method or (() if more else DEFAULT_METHODS)
    named = arm_settings(configured, methods, more)
    lines, found = draw_arms(configured.settings, request, lambda _: (named, thresholds_for))
    if export_pairs is not None:
        _export(lines, found, export_pairs)


def draw_arms(
    settings: Settings, request: Request, choose: Callable[[Opened], Arms]
) -> tuple[list[Line], PromptSet]:
    """Open what is needed, run what is missing, close.

    choose: the arms of the run; it may open models to find them.
    """
    from stars_local import arms
    from stars_local.cli.eval_estimate import show_estimate
    from stars_local.cli.judges import Judges, check_judges, open_judges
    from stars_local.evals.prompts import read_prompts
    from stars_local.evals.records import check_folder
    from stars_local.evals.runner import parse_shard
    from stars_local.evals.turns import SECOND, check_turns, second_prompts, second_turn
    from stars_local.reward.combine import digests_of

    part = parse_shard(request.shard)
    check_judges(request.judges)
    check_folder(request.out)
    seed = 0 if settings.seed is None else settings.seed
    found = read_prompts(
        request.prompts,
        limit=request.limit,
        sample_seed=request.sample_seed,
        system=settings.system,
        prefill=request.prefill,
        suffix=request.suffix,
    )
    turns = [found.prompts]
    if request.turns == 2:
        check_turns(found.prompts, found.later_turns)
        turns.append(second_prompts(found.prompts, found.later_turns))
    opened, judges = arms.Opened(request.cohort, turns), Judges()
    try:
        named, find = choose(opened)
        made = arms.make_arms(named, opened, find, seed)
        steering, *others = arms.steering_models(named, opened).items()
        about: dict[str, Any] = {
            "prompts": found.sha256,
            "prefill": request.prefill,
            "suffix": request.suffix,
            "steering": steering[1].info.axis,
        }
        steerers = {digest for _, model in (steering, *others) for digest in digests_of(model)}
        judges = open_judges(request.judges, steerers, settings.threads or 0)
        about |= judges.recorded()
        if found.labels:
            about["labels"] = found.labels
        single = judges.single | dict(others)
        plan = arms.make_plan(made, found.prompts, steering[1], single, request.cohort, about)
        folders = [request.out, request.out / SECOND][: request.turns]
        show_estimate(plan, folders, part, opened.get(next(iter(named.values()))))
        lines = _run(plan, request.out, part, request.margin, judges)
        if request.turns == 2:
            opened.turn = 1
            second = second_turn(plan, found.later_turns, lines)
            _run(second, folders[1], part, request.margin, Judges())
        return lines, found
    finally:
        judges.close()
        opened.close()


def _run(plan: Plan, out: Path, shard: Shard, margin: float, judges: Judges) -> list[Line]:
    """Draw what is missing, show how long is left by arm, and write the summary."""
    from stars_local.cli.progress import stages
    from stars_local.evals.runner import run
    from stars_local.evals.summary import sum_up

    sizes = [len(group) for k, group in enumerate(plan.cohorts()) if shard.has(k)]
    total = sum(sizes)
    print(
        f"stars-local: {len(plan.arms)} arms x {total} answers in {len(sizes)} cohorts of up to "
        f"{plan.width}",
        file=sys.stderr,
    )
    lines, done = [], dict.fromkeys((arm.name for arm in plan.arms), 0)
    with stages() as advance:
        for line in run(plan, out, shard):
            lines.append(line)
            if shard.has(line["cohort"]):
                done[line["arm"]] += 1
                advance(line["arm"], done[line["arm"]], total)
        asked = {prompt.id: prompt for prompt in plan.prompts}
        verdicts = list(verdicts_on(judges, lines, asked, out, advance))
    if not lines:
        print("stars-local: no cohort falls to this shard", file=sys.stderr)
        return lines
    show_summary(sum_up(out, lines, plan.manifest()["run"], verdicts, margin))
    return lines


def verdicts_on(
    judges: Judges,
    lines: Sequence[Line],
    prompts: Mapping[str, Prompt],
    out: Path,
    advance: OnProgress,
) -> Iterator[Verdict]:
    """What the judges of pairs say of all answers."""
    from stars_local.evals.verdicts import judge_pairs

    n_pairs = len(lines) * (len({line["arm"] for line in lines}) - 1) // 2
    for name, model in judges.pairs.items():
        for done, verdict in enumerate(judge_pairs(name, model, lines, prompts, out), start=1):
            advance(name, done, n_pairs)
            yield verdict


def _export(lines: list[Line], found: PromptSet, path: Path) -> None:
    from stars_local.evals.records import to_text, write_atomically
    from stars_local.evals.runner import preference_pairs

    by_id = {prompt.id: prompt for prompt in found.prompts}
    write_atomically(path, "".join(map(to_text, preference_pairs(lines, by_id))))


def show_summary(summary: dict[str, Any]) -> None:
    """The headline on stdout, in the words of a report."""
    from stars_local.evals.judges import tells_better
    from stars_local.evals.tables import interval, number, shown

    for name, arm in summary["arms"].items():
        rewards = [f"{shown(j)} {interval(each, digits=3)}" for j, each in arm["rewards"].items()]
        attempts = number(arm["attempts"]["value"], 2)
        cost = f"decoded {arm['n_decoded_tokens']:.0f}  attempts {attempts}"
        typer.echo("  ".join([f"{name}: n {arm['n']}", cost, *rewards]))
    for pair in summary["pairs"]:
        if tells_better(pair["judge"]):
            names = f"{pair['first']} over {pair['second']} by {shown(pair['judge'])}"
            typer.echo(f"{names}: {interval(pair['win_rate'], percent=True)}")
