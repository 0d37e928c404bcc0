"""Group `overlap`: looking ahead while scores are out against not doing so.

One prompt, STARS with one attempt in `RATE` accepted by a coin, by width; both draw the same
seeds. Worth having where the models sit on different devices, as the builds of llama.cpp and of
ONNX Runtime decide; the names of the figures say where they sat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from stars_local.bench.drawn import Drawn, draw
from stars_local.bench.figures import Figure, ratio, summary
from stars_local.bench.plan import Bench
from stars_local.core.ports import RewardModel
from stars_local.core.widths import FixedWidth
from stars_local.llama.engine import LlamaModel

RATE = 4  # one attempt in as many is accepted


def overlap(bench: Bench) -> Iterator[Figure]:
    """Wall clock with overlap over that without, by width."""
    rm, sizes = bench.reward_model(), bench.sizes
    provider = getattr(rm, "provider", "cpu")
    for label, path in bench.files(sizes.quants).items():
        with bench.open_for(path, max(sizes.policies)) as model:
            devices = f"models on {'gpu' if model.on_gpu else 'cpu'} and {provider}"
            for width in sizes.policies:
                found = bench.race(
                    {
                        "off": _answer(bench, model, rm, width, ahead=False),
                        "on": _answer(bench, model, rm, width, ahead=True),
                    }
                )
                name = f"{label} STARS, one attempt in {RATE} accepted, width {width}, {devices}"
                times = {who: [drawn.draw_s for drawn in all_] for who, all_ in found.items()}
                yield ratio(f"{name}, time", "overlap off", times["on"], times["off"])
                shares = [drawn.share_of_scoring for drawn in found["off"]]
                yield summary(f"{name}, share of scoring", "share", shares, "its own time")


def n_races_of_overlap(bench: Bench) -> int:
    """Races of `overlap`."""
    return len(bench.sizes.quants) * len(bench.sizes.policies)


def _answer(
    bench: Bench, model: LlamaModel, rm: RewardModel, width: int, *, ahead: bool
) -> Callable[[], Drawn]:
    answers = bench.coined_answers(model, RATE, lambda: FixedWidth(width))
    return lambda: draw(model, rm, [replace(next(answers), overlap=ahead)])
