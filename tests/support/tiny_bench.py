"""A bench over a tiny model of random weights, so small that every group runs in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stars_local.bench.plan import Bench, Sizes
from stars_local.core.ports import RewardModel
from tests.support.language_models import tiny_path

SMALL = Sizes(
    quants=("F32",),
    lockstep_quants=("F32",),
    widths=(1, 4),
    policies=(1, 2),
    rates=(1, 2),
    best_of=(2,),
    best_of_rates=(2,),
    lockstep=(3,),
    n_prompt=48,
    n_answer=32,
    n_long_answer=32,
    n_lockstep=30,
    segment=16,
    profiled_segments=(16, 8),
    prefixes=(64, 128),
    responses=(8, 32),
    n_rollback=64,
    cohort=2,
    decoder_layers=1,
)


class TinyBench(Bench):
    """A bench whose files are a tiny model of random weights, as they are."""

    def files(self, types: tuple[str, ...]) -> dict[str, Path]:
        return dict.fromkeys(types, self.model)


def tiny_bench(
    folder: Path, reward: RewardModel, tick: Callable[[], None] = lambda: None
) -> TinyBench:
    """One run of each contender, one thread; what is kept goes to `folder`."""
    return TinyBench(
        model=tiny_path("llama"),
        reward_model=lambda: reward,
        folder=folder,
        cache=folder,
        runs=1,
        n_threads=1,
        say=lambda line: None,
        widest=4,
        sizes=SMALL,
        tick=tick,
    )
