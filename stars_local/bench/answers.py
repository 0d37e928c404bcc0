"""Group `answers`: whole answers against the obvious program, same reward model and thresholds.

Acceptance is imposed by a seeded coin in place of the rule, so that a rate can be set; rewards
are computed all the same. Time is per kept token, from the end of the prefill on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stars_local.bench.figures import Figure, interleaved, ratio, summary
from stars_local.bench.obvious import ObviousProgram
from stars_local.bench.sources import STORY
from stars_local.core.acceptance import CoinRule
from stars_local.core.driver import Driver, Task
from stars_local.core.events import Finished, Started
from stars_local.core.methods import Context, Segmentation, StarsParams, stars
from stars_local.core.ports import RewardModel
from stars_local.core.records import Prompt, Sampling
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Threshold
from stars_local.core.widths import WidthPolicy
from stars_local.llama.engine import LlamaModel

N_TOKENS = 256
SEGMENT = 32
MAX_ATTEMPTS = 64  # so high that a rate of 1/10 is hardly ever cut
N_CTX = 2048


def answers_figures(
    path: Path,
    label: str,
    reward_model: RewardModel,
    widths: Callable[[LlamaModel], WidthPolicy],
    runs: int,
    n_threads: int,
    rates: tuple[int, ...] = (4, 10),
) -> list[Figure]:
    """Our speed over the obvious program's, at one acceptance in `rates`."""
    figures = []
    obvious = ObviousProgram(path, N_CTX, n_threads)
    try:
        with LlamaModel(path, n_ctx=N_CTX, n_threads=n_threads) as model:
            for rate in rates:
                rule = CoinRule(1.0 / rate)
                found = interleaved(
                    {
                        "obvious": _obvious(obvious, reward_model, rule),
                        "ours": _ours(model, reward_model, rule, widths(model)),
                    },
                    runs,
                )
                name = f"{label} answers of {N_TOKENS} tokens, one attempt in {rate} accepted"
                figures.append(summary(name, "kept tokens/s", found["ours"]))
                versus = "the obvious program"
                figures.append(ratio(f"{name}, speed", versus, found["ours"], found["obvious"]))
    finally:
        obvious.close()
    return figures


_THRESHOLD = Threshold(0.0, 0.5, N_TOKENS)  # computed, and overruled by the coin


def _obvious(program: ObviousProgram, rm: RewardModel, rule: CoinRule) -> Callable[[], float]:
    turn = iter(range(10**9))

    def run() -> float:
        # the coin depends on (seed, prompt): each turn tosses its own, the same for both programs
        seeds = SeedSource(next(turn), "bench")
        answer = program.answer(
            Prompt("bench", text=STORY),
            rm,
            _THRESHOLD,
            rule,
            seeds,
            n_tokens=N_TOKENS,
            segment_size=SEGMENT,
            max_attempts=MAX_ATTEMPTS,
        )
        return answer.n_kept / answer.elapsed_s

    return run


def _ours(
    model: LlamaModel, rm: RewardModel, rule: CoinRule, widths: WidthPolicy
) -> Callable[[], float]:
    import time

    turn = iter(range(10**9))
    params = StarsParams(_THRESHOLD, rule, Segmentation(SEGMENT), MAX_ATTEMPTS, widths=widths)

    def run() -> float:
        context = Context(SeedSource(next(turn), "bench"), N_TOKENS, score_chunk=1)
        task = Task(
            Prompt("bench", text=STORY),
            lambda c: stars(c, params),
            "stars",
            context,
            Sampling(ignore_eog=True),
        )
        started = kept = 0.0
        for event in Driver(model, rm).stream(task):
            if isinstance(event, Started):
                started = time.perf_counter()
            elif isinstance(event, Finished):
                kept = event.result.n_kept_tokens / (time.perf_counter() - started)
        return kept

    return run
