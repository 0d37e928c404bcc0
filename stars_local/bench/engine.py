"""Group `engine`: proposals against bare `llama_decode` calls on the same batch shapes.

The bare loop decodes fixed tokens: no sampling, no text, no Python beyond the loop. A segment of
B tokens costs both sides one decode of the prefix's last token and B - 1 decodes of `width`
tokens. The value is proposals' tokens/s over the bare loop's: 1 means that nothing of ours costs
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stars_local.bench.figures import Figure, Race, ratio, summary, timed
from stars_local.bench.sources import STORY
from stars_local.core.boundaries import Boundary
from stars_local.core.ports import Draw, Order
from stars_local.core.records import Prompt, Proposal, Sampling
from stars_local.llama.engine import LlamaModel
from stars_local.llama.library import native

SEGMENT = 32
REPEATS = 4  # segments a turn: one alone takes a fifth of a second, and scatters


def engine_figures(
    model: LlamaModel, label: str, widths: Sequence[int], race: Race
) -> list[Figure]:
    """Efficiency and tokens/s at each width."""
    figures = []
    for width in widths:
        found = race({"proposals": proposals(model, width), "bare": bare(model, width)})
        name = f"{label} proposals, width {width}"
        figures.append(summary(name, "tokens/s", found["proposals"]))
        figures.append(
            ratio(f"{name}, efficiency", "bare llama_decode", found["proposals"], found["bare"])
        )
    return figures


def lockstep_figures(
    model: LlamaModel, label: str, prompts: Sequence[int], text: str, race: Race
) -> list[Figure]:
    """The same for many prompts at once, one proposal each."""
    figures = []
    for n in prompts:
        found = race(
            {"many": lockstep_steps(model, n, text), "bare": bare(model, n, text, trunks=n)}
        )
        name = f"{label} lockstep, {n} prompts"
        figures.append(summary(name, "tokens/s", found["many"]))
        figures.append(
            ratio(f"{name}, efficiency", "bare llama_decode", found["many"], found["bare"])
        )
    return figures


def _order(trunk: int, width: int, seed: int) -> Order:
    draws = tuple(Draw((seed + attempt,), SEGMENT) for attempt in range(width))
    return Order(trunk, draws, Boundary(SEGMENT))


def proposals(model: LlamaModel, width: int, text: str = STORY) -> Callable[[], float]:
    """Tokens/s of rounds of proposals, the trunk's prefill left out."""
    turn = iter(range(10**9))

    def once() -> tuple[int, float]:
        opened = model.open(Prompt("bench", text=text), Sampling(ignore_eog=True))
        try:
            order = _order(opened.trunk, width, 1000 * next(turn))
            first = model.propose([order])[0]
            model.commit(opened.trunk, first[0])  # so that, as in a run, a last token waits
            drawn: list[Proposal] = []
            seconds = timed(lambda: drawn.extend(model.propose([order])[0]))
            return sum(p.n_tokens for p in drawn), seconds
        finally:
            model.close(opened.trunk)

    return _repeated(once)


def _repeated(once: Callable[[], tuple[int, float]]) -> Callable[[], float]:
    """Tokens/s over `REPEATS` segments; once: tokens and seconds of one."""

    def run() -> float:
        done = [once() for _ in range(REPEATS)]
        return sum(tokens for tokens, _ in done) / sum(seconds for _, seconds in done)

    return run


def lockstep_steps(model: LlamaModel, n: int, text: str) -> Callable[[], float]:
    """Tokens/s of one proposal each of `n` prompts, their prefill left out."""
    turn = iter(range(10**9))

    def once() -> tuple[int, float]:
        trunks = [
            model.open(Prompt(f"bench{i}", text=text), Sampling(ignore_eog=True)).trunk
            for i in range(n)
        ]
        try:
            seed = 1000 * next(turn)
            orders = [_order(trunk, 1, seed + i) for i, trunk in enumerate(trunks)]
            for trunk, (first,) in zip(trunks, model.propose(orders), strict=True):
                model.commit(trunk, first)
            replies: list[tuple[Proposal, ...]] = []
            seconds = timed(lambda: replies.extend(model.propose(orders)))
            return sum(p.n_tokens for (p,) in replies), seconds
        finally:
            for trunk in trunks:
                model.close(trunk)

    return _repeated(once)


def bare(
    model: LlamaModel, width: int, text: str = STORY, *, trunks: int = 1
) -> Callable[[], float]:
    """Tokens/s of bare decodes, on the model's own context, with sequences of our own."""

    def once() -> tuple[int, float]:
        with model.borrowed_context() as context:
            lib = native()
            memory = lib.llama_get_memory(context)
            ids = model.encode(Prompt("bench", text=text))
            ids = ids + ids[1 : SEGMENT + 1]  # as long as the trunk with its committed segment
            prefix, last = ids[:-1], ids[-1]
            for trunk in range(trunks):
                _prefill(context, [(t, i, trunk) for i, t in enumerate(prefix)])
            lone = _batch([(last, len(prefix), trunk) for trunk in range(trunks)])
            wide = [
                _batch([(last, len(ids) + step, branch) for branch in range(width)])
                for step in range(SEGMENT - 1)
            ]

            def work() -> None:
                decode = lib.llama_decode
                _check(decode(context, lone))
                for branch in range(1, width if trunks == 1 else 1):
                    lib.llama_memory_seq_cp(memory, 0, branch, -1, -1)
                for batch in wide:
                    _check(decode(context, batch))
                lib.llama_synchronize(context)

            seconds = timed(work)
            for seq in range(max(width, trunks)):
                lib.llama_memory_seq_rm(memory, seq, -1, -1)
            for batch in (lone, *wide):
                lib.llama_batch_free(batch)
            return width * SEGMENT, seconds

    return _repeated(once)


def _batch(entries: Sequence[tuple[int, int, int]]) -> Any:
    """A native batch of (token, position, sequence), logits wanted for all."""
    lib = native()
    batch = lib.llama_batch_init(len(entries), 0, 1)
    for at, (token, position, seq) in enumerate(entries):
        batch.token[at], batch.pos[at] = token, position
        batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, seq, 1
    batch.n_tokens = len(entries)
    return batch


def _prefill(context: Any, entries: Sequence[tuple[int, int, int]]) -> None:
    n_most = native().llama_n_batch(context)
    for first in range(0, len(entries), n_most):
        batch = _batch(entries[first : first + n_most])
        for at in range(batch.n_tokens):
            batch.logits[at] = 0
        _check(native().llama_decode(context, batch))
        native().llama_batch_free(batch)


def _check(code: int) -> None:
    if code != 0:
        raise RuntimeError(f"llama_decode gave {code} in the bare loop")
