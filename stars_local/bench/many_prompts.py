"""Groups `lockstep` and `streams`: many prompts at once, and which cache they want.

A unified cache attends over everybody's cells. Against it stand a cache with a stream for each
sequence (`kv_unified=False`, in which a prompt's only attempt is drawn in place) and small unified
contexts that take a few prompts each, one context after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from stars_local.bench.drawn import Drawn, draw, plain, task
from stars_local.bench.engine import bare, lockstep_figures
from stars_local.bench.figures import Figure, ratio, summary
from stars_local.bench.plan import Bench
from stars_local.bench.sources import text_of
from stars_local.core.methods import Segmentation
from stars_local.llama.engine import LlamaModel


def lockstep(bench: Bench) -> Iterator[Figure]:
    """One proposal each against bare llama_decode; vanilla of many prompts against one's. In
    streams, as `eval` draws."""
    sizes = bench.sizes
    n_most = max(sizes.lockstep)
    for label, path in bench.files(sizes.lockstep_quants).items():
        with bench.open(path, bench.sizes.cells, n_most + 1, unified=False) as model:
            yield from lockstep_figures(
                model, label, sizes.lockstep, _text(bench, model), bench.race
            )
            found = bench.race(
                {str(n): _vanilla(bench, model, n, n) for n in (1, *sizes.lockstep)},
            )
        for n in sizes.lockstep:
            name = f"{label} vanilla, {n} prompts"
            yield summary(name, "kept tokens/s", _speed(found[str(n)]))
            yield ratio(f"{name}, speed", "one prompt", _speed(found[str(n)]), _speed(found["1"]))


def n_races_of_lockstep(bench: Bench) -> int:
    """Races of `lockstep`."""
    return len(bench.sizes.lockstep_quants) * (len(bench.sizes.lockstep) + 1)


def streams(bench: Bench) -> Iterator[Figure]:
    """Streams of their own and small contexts against one unified cache."""
    sizes = bench.sizes
    for label, path in bench.files(sizes.lockstep_quants).items():
        for n in sizes.lockstep:
            few = min(sizes.cohort, n)
            each = bench.sizes.cells
            with (
                bench.open(path, n * each, 2 * n + 1) as unified,
                bench.open(path, each, n + 1, unified=False) as apart,
                bench.open(path, few * each, 2 * few + 1) as small,
            ):
                found = bench.race(
                    {
                        "unified": _vanilla(bench, unified, n, n),
                        "streams": _vanilla(bench, apart, n, n),
                        "small": _vanilla(bench, small, n, few),
                    }
                )
                decodes = bench.race(
                    {
                        "unified": bare(unified, n, _text(bench, unified), trunks=n),
                        "streams": bare(apart, n, _text(bench, apart), trunks=n),
                    }
                )
            versus = "one unified cache"
            one = _speed(found["unified"])
            name = f"{label} vanilla, {n} prompts"
            yield summary(f"{name}, unified cache", "kept tokens/s", one)
            yield ratio(f"{name}, streams, speed", versus, _speed(found["streams"]), one)
            contexts = f"contexts of {few} prompts, speed"
            yield ratio(f"{name}, {contexts}", versus, _speed(found["small"]), one)
            line = f"{label} bare llama_decode, {n} prompts, streams, speed"
            yield ratio(line, versus, decodes["streams"], decodes["unified"])


def n_races_of_streams(bench: Bench) -> int:
    """Races of `streams`."""
    return 2 * len(bench.sizes.lockstep_quants) * len(bench.sizes.lockstep)


def _text(bench: Bench, model: LlamaModel) -> str:
    return text_of(model, bench.sizes.n_prompt)


def _vanilla(bench: Bench, model: LlamaModel, n: int, at_once: int) -> Callable[[], Drawn]:
    """Answers to `n` prompts, `at_once` in lockstep and those after them when all have ended."""
    text = _text(bench, model)
    n_tokens = bench.sizes.n_lockstep
    method = plain(Segmentation(bench.sizes.segment))
    turn = iter(range(10**9))

    def run() -> Drawn:
        seed = next(turn)
        tasks = [task(text, method, "vanilla", seed, n_tokens, number) for number in range(n)]
        return draw(model, None, tasks, n_slots=at_once)

    return run


def _speed(found: list[Drawn]) -> list[float]:
    return [drawn.rate for drawn in found]
