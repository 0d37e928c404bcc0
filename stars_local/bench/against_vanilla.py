"""Groups `vanilla` and `best-of`: STARS against plain sampling and best of n, one prompt.

All keep as many tokens. Acceptance is imposed, see `stars_local.bench.drawn`; the seconds run
from the first draw on and hold the scoring. A ratio of 2 means twice the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from stars_local.bench.drawn import (
    Drawn,
    Method,
    best_of,
    draw,
    plain,
    task,
)
from stars_local.bench.figures import Figure, ratio, summary
from stars_local.bench.plan import Bench
from stars_local.bench.sources import text_of
from stars_local.core.methods import Segmentation
from stars_local.core.ports import RewardModel
from stars_local.core.widths import FixedWidth, WidthPolicy
from stars_local.llama.engine import LlamaModel

AUTO = "auto"
Policies = dict[str, Callable[[], WidthPolicy]]


def vanilla(bench: Bench) -> Iterator[Figure]:
    """STARS against vanilla's wall clock, by acceptance and width."""
    rm = bench.reward_model()
    for label, path in bench.files(bench.sizes.quants).items():
        with _open(bench, path) as model:
            for rate in bench.sizes.rates:
                yield from _by_width(bench, model, rm, label, rate, _policies(bench, model))


def n_races_of_vanilla(bench: Bench) -> int:
    """Races of `vanilla`."""
    return len(bench.sizes.quants) * len(bench.sizes.rates)


def best_of_n(bench: Bench) -> Iterator[Figure]:
    """STARS of adaptive width against best of n, at equal kept tokens."""
    sizes, rm = bench.sizes, bench.reward_model()
    for label, path in bench.files(sizes.quants).items():
        with _open(bench, path) as model:
            for rate in sizes.best_of_rates:
                auto = bench.auto(model, sizes.segment)
                contenders = {
                    str(n): _plainly(bench, model, rm, best_of(n, sizes.segment))
                    for n in sizes.best_of
                }
                found = bench.race(
                    {"stars": _stars(bench, model, rm, rate, auto), **contenders},
                )
                name = f"{label} STARS, one attempt in {rate} accepted, width auto, time"
                for n in contenders:
                    yield ratio(name, f"best of {n}", _time(found["stars"]), _time(found[n]))


def n_races_of_best_of_n(bench: Bench) -> int:
    """Races of `best_of_n`."""
    return len(bench.sizes.quants) * len(bench.sizes.best_of_rates)


def figures_of_widths(
    name: str, plainly: list[Drawn], by_width: dict[str, list[Drawn]]
) -> Iterator[Figure]:
    """Time over vanilla's and share of scoring by width; `auto` over the best fixed width."""
    for width, found in by_width.items():
        here = f"{name}, width {width}"
        yield ratio(f"{here}, time", "vanilla", _time(found), _time(plainly))
        shares = [drawn.share_of_scoring for drawn in found]
        yield summary(f"{here}, share of scoring", "share", shares, "its own time")
    fixed = {width: _time(found) for width, found in by_width.items() if width != AUTO}
    best = min(fixed, key=lambda width: summary("", "s", fixed[width]).value)
    versus = f"the best fixed width, {best}"
    yield ratio(f"{name}, width auto, time", versus, _time(by_width[AUTO]), fixed[best])


def _by_width(
    bench: Bench, model: LlamaModel, rm: RewardModel, label: str, rate: int, policies: Policies
) -> Iterator[Figure]:
    sizes = bench.sizes
    found = bench.race(
        {
            "vanilla": _plainly(bench, model, None, plain(Segmentation(sizes.segment))),
            **{width: _stars(bench, model, rm, rate, make) for width, make in policies.items()},
        }
    )
    plainly = found.pop("vanilla")
    yield from figures_of_widths(f"{label} STARS, one attempt in {rate} accepted", plainly, found)


def _policies(bench: Bench, model: LlamaModel) -> Policies:
    fixed = {str(width): partial(FixedWidth, width) for width in bench.sizes.policies}
    return {**fixed, AUTO: bench.auto(model, bench.sizes.segment)}


def _open(bench: Bench, path: Path) -> LlamaModel:
    sizes = bench.sizes
    return bench.open_for(path, max(bench.widest, *sizes.policies, *sizes.best_of))


def _stars(
    bench: Bench,
    model: LlamaModel,
    rm: RewardModel,
    rate: int,
    policy: Callable[[], WidthPolicy],
) -> Callable[[], Drawn]:
    answers = bench.coined_answers(model, rate, policy)
    return lambda: draw(model, rm, [next(answers)])


def _plainly(
    bench: Bench, model: LlamaModel, rm: RewardModel | None, method: Method
) -> Callable[[], Drawn]:
    text, n_tokens = text_of(model, bench.sizes.n_prompt), bench.sizes.n_answer
    seeds = iter(range(10**9))
    return lambda: draw(model, rm, [task(text, method, "plain", next(seeds), n_tokens)])


def _time(found: list[Drawn]) -> list[float]:
    return [drawn.draw_s for drawn in found]
