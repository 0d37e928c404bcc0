"""The groups of benchmarks, by name, and which of them a run has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stars_local.bench import against_cards, against_vanilla, costs, many_prompts
from stars_local.bench.answers import answers_figures
from stars_local.bench.attention import attention, n_races_of_attention
from stars_local.bench.decoder_reward import decoder, n_races_of_decoder
from stars_local.bench.engine import engine_figures
from stars_local.bench.figures import Figure
from stars_local.bench.overlapping import n_races_of_overlap, overlap
from stars_local.bench.plan import Bench
from stars_local.bench.profiling import n_races_of_profile, profile
from stars_local.bench.rollback import rollback_figures
from stars_local.core.errors import UsageError

ANSWER_RATES = (4, 10)
_ENGINE_CTX = 4096


@dataclass(frozen=True, slots=True)
class Group:
    """A group: what it measures in a line, its figures, and how many races they take."""

    about: str
    figures: Callable[[Bench], Iterator[Figure]]
    n_races: Callable[[Bench], int]


def engine(bench: Bench) -> Iterator[Figure]:
    """Proposals against bare llama_decode."""
    for label, path in bench.files(bench.sizes.quants).items():
        with bench.open(path, _ENGINE_CTX, 64) as model:
            yield from engine_figures(model, label, bench.sizes.widths, bench.race)


def rollback(bench: Bench) -> Iterator[Figure]:
    """Milliseconds a rejection at a long prefix, by strategy."""
    for label, path in bench.files(bench.sizes.quants[:1]).items():
        n = bench.sizes.n_rollback
        yield from rollback_figures(path, label, n, bench.race, bench.n_threads)


def answers(bench: Bench) -> Iterator[Figure]:
    """Whole answers against the obvious program on the high-level class."""
    rm = bench.reward_model()
    for label, path in bench.files(bench.sizes.quants).items():
        yield from answers_figures(bench, path, label, rm, ANSWER_RATES)


GROUPS: dict[str, Group] = {
    "engine": Group(
        "proposals against bare llama_decode, by width",
        engine,
        lambda bench: len(bench.sizes.quants) * len(bench.sizes.widths),
    ),
    "vanilla": Group(
        "STARS against vanilla, by acceptance and width",
        against_vanilla.vanilla,
        against_vanilla.n_races_of_vanilla,
    ),
    "lockstep": Group(
        "many prompts against bare llama_decode and against one prompt",
        many_prompts.lockstep,
        many_prompts.n_races_of_lockstep,
    ),
    "best-of": Group(
        "STARS against best of n",
        against_vanilla.best_of_n,
        against_vanilla.n_races_of_best_of_n,
    ),
    "answers": Group(
        "whole answers against the obvious program",
        answers,
        lambda bench: len(bench.sizes.quants) * len(ANSWER_RATES),
    ),
    "cards": Group(
        "STARS (15, 30) against CARDS in lockstep",
        against_cards.cards,
        against_cards.n_races_of_cards,
    ),
    "costs": Group(
        "scoring, first segment, context length, memory",
        costs.costs,
        costs.n_races_of_costs,
    ),
    "attention": Group(
        "attention in products of matrices against llama.cpp's fused kernel",
        attention,
        n_races_of_attention,
    ),
    "decoder": Group(
        "a decoder reward model with past keys and values, by response length",
        decoder,
        n_races_of_decoder,
    ),
    "overlap": Group("looking ahead while scores are out", overlap, n_races_of_overlap),
    "profile": Group("where the time of an answer goes", profile, n_races_of_profile),
    "rollback": Group("what a rejection costs, by strategy", rollback, lambda bench: 3),
    "streams": Group(
        "streams and small contexts against a unified cache",
        many_prompts.streams,
        many_prompts.n_races_of_streams,
    ),
}
QUICK = tuple(GROUPS)[:2]


def choose(only: Sequence[str] | None, *, quick: bool) -> list[str]:
    """The groups of a run: those asked for, else the first two of a quick run, else all.

    Raises UsageError for a name that no group has.
    """
    for name in only or ():
        if name not in GROUPS:
            raise UsageError(f"no group {name!r}: use {', '.join(GROUPS)}")
    if only:
        return list(dict.fromkeys(only))
    return list(QUICK if quick else GROUPS)


def n_turns(bench: Bench, names: Sequence[str]) -> int:
    """Turns of all races of these groups, warming up included."""
    return sum(GROUPS[name].n_races(bench) for name in names) * (bench.runs + 1)
