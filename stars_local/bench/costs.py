"""Group `costs`: what grows, and with what.

Scoring with the length of the response, a step with the length of the context, memory with
width and prompts; and how long a reader waits for the first segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from stars_local.bench.drawn import Drawn, balanced_seeds, coined, draw, plain, task
from stars_local.bench.engine import proposals
from stars_local.bench.figures import Figure, ratio, summary, timed
from stars_local.bench.plan import Bench
from stars_local.bench.sources import text_of
from stars_local.core.boundaries import Boundary
from stars_local.core.methods import Segmentation
from stars_local.core.ports import Draw, Order, RewardModel
from stars_local.core.records import Prompt, Sampling
from stars_local.llama.engine import LlamaModel
from stars_local.llama.memory import anonymous_bytes

RATE = 4  # one attempt in as many is accepted, where the first segment is waited for
CONTEXT_WIDTHS = (1, 8)
SHAPES = ((1, 1), (1, 16), (16, 1), (64, 1))  # (prompts, width) whose memory is measured
_MB = 1e6


def costs(bench: Bench) -> Iterator[Figure]:
    """Scoring, first segment, context, memory."""
    sizes, rm = bench.sizes, bench.reward_model()
    for label, path in bench.files(sizes.lockstep_quants).items():
        n_ctx = max(sizes.prefixes) + (2 + max(CONTEXT_WIDTHS)) * 2 * sizes.segment
        n_seq_max = 2 + max(bench.widest, *CONTEXT_WIDTHS)
        with bench.open(path, max(4096, n_ctx), n_seq_max) as model:
            yield from _scoring(bench, model, rm)
            yield from _first_segment(bench, model, rm, label)
            for width in CONTEXT_WIDTHS:
                yield from _context(bench, model, label, width)
        yield from _memory(bench, path, label)


def n_races_of_costs(bench: Bench) -> int:
    """Races of `costs`."""
    return len(bench.sizes.lockstep_quants) * (2 + len(CONTEXT_WIDTHS) + len(SHAPES))


def _scoring(bench: Bench, model: LlamaModel, rm: RewardModel) -> Iterator[Figure]:
    """Milliseconds to score one text, by its length in tokens of the language model."""
    prompt = Prompt("bench", text=text_of(model, bench.sizes.n_prompt))
    lengths = bench.sizes.responses

    def score(text: str) -> Callable[[], float]:
        return lambda: 1000.0 * timed(lambda: rm.score([(prompt, text)]))

    found = bench.race({str(n): score(text_of(model, n)) for n in lengths})
    shortest = lengths[0]
    for n in lengths:
        name = f"scoring a response of {n} tokens with {rm.info.name}"
        yield summary(name, "ms", found[str(n)])
        if n != shortest:
            versus = f"a response of {shortest} tokens"
            yield ratio(f"{name}, cost", versus, found[str(n)], found[str(shortest)])


def _first_segment(
    bench: Bench, model: LlamaModel, rm: RewardModel, label: str
) -> Iterator[Figure]:
    """From the prompt to the first kept segment, prefill included."""
    sizes = bench.sizes
    text, segmentation = text_of(model, sizes.n_prompt), Segmentation(sizes.segment)
    stars = coined(RATE, segmentation, sizes.segment, bench.auto(model, sizes.segment))
    seeds = balanced_seeds(RATE, 1)
    turn = iter(range(10**9))
    found: dict[str, list[Drawn]] = bench.race(
        {
            "stars": lambda: draw(
                model, rm, [task(text, stars, "stars", next(seeds), sizes.segment)]
            ),
            "vanilla": lambda: draw(
                model,
                None,
                [task(text, plain(segmentation), "vanilla", next(turn), sizes.segment)],
            ),
        }
    )
    waits = {who: [1000.0 * drawn.first_s for drawn in all_] for who, all_ in found.items()}
    name = f"{label} first kept segment of {sizes.segment} after a prompt of {sizes.n_prompt}"
    yield summary(f"{name}, one attempt in {RATE} accepted", "ms", waits["stars"])
    yield ratio(f"{name}, wait", "vanilla", waits["stars"], waits["vanilla"])


def _context(bench: Bench, model: LlamaModel, label: str, width: int) -> Iterator[Figure]:
    """Tokens/s of a round by the length of what stands before it."""
    lengths = bench.sizes.prefixes
    found = bench.race(
        {str(n): proposals(model, width, text_of(model, n)) for n in lengths},
    )
    shortest = lengths[0]
    for n in lengths:
        name = f"{label} step at {n} tokens, width {width}"
        cost = [1000.0 * width / speed for speed in found[str(n)]]
        least = [1000.0 * width / speed for speed in found[str(shortest)]]
        yield summary(name, "ms", cost)
        if n != shortest:
            yield ratio(f"{name}, cost", f"a step at {shortest} tokens", cost, least)


def _memory(bench: Bench, path: Path, label: str) -> Iterator[Figure]:
    """Memory of a context just large enough, by prompts and width."""
    sizes = bench.sizes
    each = sizes.n_prompt + sizes.segment
    for n, width in SHAPES:
        n_ctx = n * (each + (1 + width) * sizes.segment)
        found = bench.race({"": partial(_footprint, bench, path, n, width, n_ctx)})[""]
        name = f"{label} {n} prompts, width {width}, {n_ctx} cells"
        yield summary(f"{name}, saved state of one prompt", "MB", [state for state, _ in found])
        grown = [rss for _, rss in found if rss is not None]
        if grown:
            yield summary(f"{name}, memory beyond the file", "MB", grown)
    if anonymous_bytes() is None:
        bench.say("this system does not tell the memory of a process: left out")


def _footprint(
    bench: Bench, path: Path, n: int, width: int, n_ctx: int
) -> tuple[float, float | None]:
    """MB of the state of one prompt, and of the process with a round drawn, less those before."""
    before = anonymous_bytes()
    with bench.open(path, n_ctx, n * (1 + width) + 1) as model:
        prompt = Prompt("bench", text=text_of(model, bench.sizes.n_prompt))
        trunks = [model.open(prompt, Sampling(ignore_eog=True)).trunk for _ in range(n)]
        size = bench.sizes.segment
        draws = tuple(Draw((attempt,), size) for attempt in range(width))
        model.propose([Order(trunk, draws, Boundary(size)) for trunk in trunks])
        after = anonymous_bytes()
        state = len(model.save_state(trunks[0])) / _MB
        for trunk in trunks:
            model.close(trunk)
    return state, None if before is None or after is None else (after - before) / _MB
