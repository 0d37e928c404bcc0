"""The groups of benchmarks, by name, and what each needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stars_local.bench.answers import answers_figures
from stars_local.bench.engine import engine_figures, lockstep_figures
from stars_local.bench.figures import Figure
from stars_local.bench.rollback import rollback_figures
from stars_local.bench.sources import quants
from stars_local.core.ports import RewardModel
from stars_local.core.widths import AutoWidth, WidthPolicy
from stars_local.llama.engine import LlamaModel
from stars_local.llama.speed import step_costs

LOCKSTEP = (16, 64)
_ENGINE_CTX = 4096
_LOCKSTEP_CTX = 24576


@dataclass(frozen=True, slots=True)
class Bench:
    """What the groups run with. reward_model is called when a group needs one."""

    model: Path
    reward_model: Callable[[], RewardModel]
    folder: Path
    cache: Path
    runs: int
    n_threads: int
    say: Callable[[str], None]

    def files(self, *types: str) -> dict[str, Path]:
        """Files of these types made from the model, kept for the next run."""
        return quants(self.model, types, self.folder, self.say)


def engine(bench: Bench) -> Iterator[Figure]:
    """Proposals against bare llama_decode."""
    for label, path in bench.files("Q4_0", "BF16").items():
        with LlamaModel(path, n_ctx=_ENGINE_CTX, n_threads=bench.n_threads) as model:
            yield from engine_figures(model, label, bench.runs)


def rollback(bench: Bench) -> Iterator[Figure]:
    """Milliseconds a rejection at 1,024 tokens, by strategy."""
    for label, path in bench.files("Q4_0").items():
        yield from rollback_figures(path, label, bench.runs, bench.n_threads)


def answers(bench: Bench) -> Iterator[Figure]:
    """Whole answers against the obvious program on the high-level class."""
    reward_model = bench.reward_model()

    def widths(model: LlamaModel) -> WidthPolicy:
        return AutoWidth(step_costs(model, bench.cache, widest=32).round_costs(32))

    for label, path in bench.files("BF16", "Q4_0").items():
        yield from answers_figures(path, label, reward_model, widths, bench.runs, bench.n_threads)


def lockstep(bench: Bench) -> Iterator[Figure]:
    """Many prompts at once, one proposal each, against bare llama_decode."""
    for label, path in bench.files("BF16").items():
        with LlamaModel(
            path, n_ctx=_LOCKSTEP_CTX, n_threads=bench.n_threads, n_seq_max=2 * max(LOCKSTEP) + 1
        ) as model:
            yield from lockstep_figures(model, label, LOCKSTEP, bench.runs)


GROUPS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "engine": engine,
    "rollback": rollback,
    "answers": answers,
    "lockstep": lockstep,
}
QUICK = ("engine", "rollback")
