"""Group `answers`: whole answers against the obvious program, same reward model and thresholds.

Acceptance is imposed by a seeded coin in place of the rule, so that a rate can be set; rewards
are computed all the same. Time is per kept token, from the end of the prefill on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from stars_local.bench.drawn import MAX_ATTEMPTS, coined, draw, task
from stars_local.bench.figures import Figure, ratio, summary
from stars_local.bench.obvious import ObviousProgram
from stars_local.bench.plan import Bench
from stars_local.bench.sources import STORY
from stars_local.core.acceptance import CoinRule
from stars_local.core.methods import Segmentation
from stars_local.core.ports import RewardModel
from stars_local.core.records import Prompt
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Threshold
from stars_local.llama.engine import LlamaModel

_SPARE_CELLS = 1024  # for the story and what is drawn beside the answer


def answers_figures(
    bench: Bench, path: Path, label: str, rm: RewardModel, rates: tuple[int, ...]
) -> list[Figure]:
    """Our speed over the obvious program's, at one acceptance in `rates`."""
    figures = []
    n_tokens, segment = bench.sizes.n_long_answer, bench.sizes.segment
    n_ctx = _SPARE_CELLS + n_tokens + bench.widest * segment
    obvious = ObviousProgram(path, n_ctx, bench.n_threads)
    try:
        with bench.open(path, n_ctx, 2 + bench.widest) as model:
            for rate in rates:
                found = bench.race(
                    {
                        "obvious": _obvious(obvious, rm, rate, n_tokens, segment),
                        "ours": _ours(bench, model, rm, rate),
                    }
                )
                name = f"{label} answers of {n_tokens} tokens, one attempt in {rate} accepted"
                figures.append(summary(name, "kept tokens/s", found["ours"]))
                versus = "the obvious program"
                figures.append(ratio(f"{name}, speed", versus, found["ours"], found["obvious"]))
    finally:
        obvious.close()
    return figures


def _obvious(
    program: ObviousProgram, rm: RewardModel, rate: int, n_tokens: int, segment: int
) -> Callable[[], float]:
    turn = iter(range(10**9))
    draw_one = partial(
        program.answer,
        Prompt("bench0", text=STORY),
        rm,
        Threshold(0.0, 0.5, n_tokens),  # computed, and overruled by the coin
        CoinRule(1.0 / rate),
        n_tokens=n_tokens,
        segment_size=segment,
        max_attempts=MAX_ATTEMPTS,
    )

    def run() -> float:
        # the coin depends on (seed, prompt): each turn tosses its own, the same for both programs
        answer = draw_one(seeds=SeedSource(next(turn), "bench0"))
        return answer.n_kept / answer.elapsed_s

    return run


def _ours(bench: Bench, model: LlamaModel, rm: RewardModel, rate: int) -> Callable[[], float]:
    turn = iter(range(10**9))
    n_tokens, segment = bench.sizes.n_long_answer, bench.sizes.segment
    method = coined(rate, Segmentation(segment), n_tokens, bench.auto(model, segment))

    def run() -> float:
        drawn = draw(model, rm, [task(STORY, method, "stars", next(turn), n_tokens)])
        return drawn.n_kept / drawn.draw_s

    return run
