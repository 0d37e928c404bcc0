"""What the groups run with: files, models, how often, and how large."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from stars_local.bench.drawn import coined_answers
from stars_local.bench.figures import Race, interleaved
from stars_local.bench.sources import quants, text_of
from stars_local.core.driver import Task
from stars_local.core.ports import RewardModel
from stars_local.core.widths import Acceptances, AutoWidth, WidthPolicy
from stars_local.llama.engine import LlamaModel
from stars_local.llama.speed import step_costs

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large each measurement is; tokens, prompts and widths.

    rates: one attempt in as many is accepted. policies: the fixed widths beside `auto`.
    n_answer and n_prompt together are the 192 tokens that the project's targets speak of; the
    answers of the lockstep groups, n_lockstep, are multiples of 15 and 30.
    """

    quants: tuple[str, ...] = ("Q4_0", "BF16")
    lockstep_quants: tuple[str, ...] = ("BF16",)
    widths: tuple[int, ...] = (1, 4, 8, 16, 32)
    policies: tuple[int, ...] = (1, 2, 4, 8, 16)
    rates: tuple[int, ...] = (1, 2, 4, 8)
    best_of: tuple[int, ...] = (4, 10)
    best_of_rates: tuple[int, ...] = (2, 4)
    lockstep: tuple[int, ...] = (16, 64)
    n_prompt: int = 64
    n_answer: int = 128
    n_long_answer: int = 256
    n_lockstep: int = 60
    segment: int = 32
    profiled_segments: tuple[int, ...] = (32, 15)
    prefixes: tuple[int, ...] = (128, 512, 1024, 2048)
    responses: tuple[int, ...] = (32, 128, 512)
    n_rollback: int = 1024
    cohort: int = 16
    decoder_layers: int = 30

    @property
    def cells(self) -> int:
        """Of a prompt of the lockstep groups: its text, what is committed to it, and a branch
        beside that."""
        return self.n_prompt + 2 * max(self.n_lockstep, 2 * self.segment)


QUICK_SIZES = Sizes(quants=("Q4_0",), widths=(1, 8, 32), policies=(1, 4), rates=(4,), n_answer=64)


@dataclass(frozen=True, slots=True)
class Bench:
    """A run of groups. reward_model is called when a group needs one.

    folder keeps files made from the model, cache what steps cost; widest is the widest round of
    `auto`; tick is called after each turn of a race.
    """

    model: Path
    reward_model: Callable[[], RewardModel]
    folder: Path
    cache: Path
    runs: int
    n_threads: int
    say: Callable[[str], None]
    widest: int
    sizes: Sizes = field(default_factory=Sizes)
    tick: Callable[[], None] = lambda: None

    def files(self, types: tuple[str, ...]) -> dict[str, Path]:
        """Files of these types made from the model, kept for the next run."""
        return quants(self.model, types, self.folder, self.say)

    def race(self, contenders: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """Contenders in turns, once to warm up and `runs` times counted."""
        return interleaved(contenders, self.runs, on_turn=self.tick)

    def open(
        self,
        path: Path,
        n_ctx: int,
        n_seq_max: int,
        *,
        unified: bool = True,
        fused: bool | None = None,
        n_gpu_layers: int = -1,
    ) -> LlamaModel:
        """A file with a context of this size; unload it."""
        return LlamaModel(
            path,
            n_ctx=n_ctx,
            n_threads=self.n_threads,
            n_gpu_layers=n_gpu_layers,
            n_seq_max=n_seq_max,
            unified=unified,
            fused=fused,
        )

    def open_for(self, path: Path, widest: int) -> LlamaModel:
        """A file with a context for one answer in rounds of at most `widest`; unload it."""
        n_cells = self.sizes.n_prompt + self.sizes.n_answer
        return self.open(path, max(4096, (widest + 2) * n_cells), widest + 2)

    def coined_answers(
        self,
        model: LlamaModel,
        rate: int,
        policy: Callable[[], WidthPolicy],
        segment: int | None = None,
    ) -> Iterator[Task]:
        """Answers of STARS to this model's prompt, as `stars_local.bench.drawn` draws them."""
        text, sizes = text_of(model, self.sizes.n_prompt), self.sizes
        size = sizes.segment if segment is None else segment
        return coined_answers(text, rate, size, sizes.n_answer, policy)

    def auto(self, model: LlamaModel, segment: int) -> Callable[[], WidthPolicy]:
        """Makes an adaptive policy for each answer; they share what they have seen, as those of
        one chat do."""
        costs, seen = step_costs(model, self.cache, self.widest).round_costs(segment), Acceptances()
        return lambda: AutoWidth(costs, seen)


__all__ = ["QUICK_SIZES", "Bench", "Race", "Sizes"]
