"""Group `cards`: fixed segments of 15 and 30 tokens against CARDS' uneven ones, in lockstep.

The papers' own comparison (their ratio: 1.53). Twice as many prompts as slots are drawn, in two
ways: under the barrier, where the second half begins when the whole first half has ended, and
with every slot refilled as its answer ends. In both a round lasts as long as its longest segment.
The coin accepts one attempt in `RATE` of either method, so that they differ in nothing but where
segments end. Each prompt has a stream of its own, as in `eval`. Wall clock, prefill included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from stars_local.bench.drawn import Drawn, Method, coined, draw, task
from stars_local.bench.figures import Figure, interval, ratio, summary
from stars_local.bench.plan import Bench
from stars_local.bench.sources import text_of
from stars_local.core.boundaries import BoundaryKind
from stars_local.core.methods import Segmentation
from stars_local.core.methods.registry import MethodParams
from stars_local.core.ports import RewardModel
from stars_local.core.widths import FixedWidth
from stars_local.llama.engine import LlamaModel

RATE = 2
SEGMENTS = (15, 30)
BARRIER, REFILLED = "barrier", "slots refilled"
CARDS = "CARDS"


def cards(bench: Bench) -> Iterator[Figure]:
    """Kept tokens/s and tokens wasted per rejection, STARS against CARDS."""
    rm, sizes = bench.reward_model(), bench.sizes
    for label, path in bench.files(sizes.lockstep_quants).items():
        for n in sizes.lockstep:
            with bench.open(path, sizes.cells, n + 1, unified=False) as model:
                found = bench.race(contenders(bench, model, rm, n))
            yield from figures_of_cards(f"{label} {n} prompts in lockstep", found)


def n_races_of_cards(bench: Bench) -> int:
    """Races of `cards`."""
    return len(bench.sizes.lockstep_quants) * len(bench.sizes.lockstep)


def segmentations() -> dict[str, Segmentation]:
    """The methods compared, by name; CARDS' with the defaults of the method of that name."""
    known = MethodParams()
    uneven = Segmentation(
        known.max_segment_tokens, BoundaryKind.ENTROPY, known.min_tokens, known.entropy_threshold
    )
    return {**{f"STARS ({size})": Segmentation(size) for size in SEGMENTS}, CARDS: uneven}


def contenders(
    bench: Bench, model: LlamaModel, rm: RewardModel, n_slots: int
) -> dict[str, Callable[[], Drawn]]:
    """Each method under the barrier and with slots refilled; all toss the same coins in a turn."""
    found: dict[str, Callable[[], Drawn]] = {}
    for name, segmentation in segmentations().items():
        method = coined(RATE, segmentation, bench.sizes.n_lockstep, partial(FixedWidth, 1))
        for way in (BARRIER, REFILLED):
            found[f"{name}, {way}"] = _drawing(bench, model, rm, method, n_slots, way)
    return found


def together(parts: list[Drawn]) -> Drawn:
    """What several runs took, one after another."""
    return Drawn(
        sum(part.seconds for part in parts),
        sum(part.draw_s for part in parts),
        parts[0].first_s,
        sum(part.score_s for part in parts),
        sum(part.n_rejections for part in parts),
        tuple(result for part in parts for result in part.results),
    )


def figures_of_cards(name: str, found: dict[str, list[Drawn]]) -> Iterator[Figure]:
    """Of each contender its speed and waste; of each STARS the ratio to CARDS run the same way."""
    for key, drawn in found.items():
        yield summary(f"{name}, {key}", "kept tokens/s", [one.rate for one in drawn])
        wasted = [one.wasted_per_rejection for one in drawn]
        yield summary(f"{name}, {key}, wasted", "tokens", wasted, "a rejection")
        judged = [1.0 + one.n_rejections / _n_segments(one) for one in drawn]
        yield summary(f"{name}, {key}, attempts judged", "attempts", judged, "a kept segment")
    for size in SEGMENTS:
        stars = f"STARS ({size})"
        for way in (BARRIER, REFILLED):
            above = [one.rate for one in found[f"{stars}, {way}"]]
            below = [one.rate for one in found[f"{CARDS}, {way}"]]
            line = f"{name}, {stars}, {way}, speed"
            yield ratio(line, f"{CARDS}, {way}", above, below)
            yield from interval(line, f"{CARDS}, {way}", above, below)


def _n_segments(drawn: Drawn) -> int:
    return sum(len(result.segments) for result in drawn.results)


def _drawing(
    bench: Bench, model: LlamaModel, rm: RewardModel, method: Method, n_slots: int, way: str
) -> Callable[[], Drawn]:
    turn = iter(range(10**9))
    n_tokens, text = bench.sizes.n_lockstep, text_of(model, bench.sizes.n_prompt)

    def run() -> Drawn:
        seed = next(turn)
        tasks = [
            task(text, method, "segments", seed, n_tokens, number) for number in range(2 * n_slots)
        ]
        cohorts = [tasks] if way == REFILLED else [tasks[:n_slots], tasks[n_slots:]]
        return together([draw(model, rm, cohort, n_slots=n_slots) for cohort in cohorts])

    return run
