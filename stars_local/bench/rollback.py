"""Group `rollback`: what rejecting a segment costs beyond drawing it, at a long prefix.

`branch` and `snapshot` are the engine's two strategies; the third row is what the high-level
class offers. A rejection is everything between two draws: dropping the loser and giving the
next attempt the prefix's state.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stars_local.bench.figures import Figure, Race, summary, timed
from stars_local.bench.sources import CHARS_A_TOKEN, long_text, text_of
from stars_local.core.boundaries import Boundary
from stars_local.core.ports import Draw, Order
from stars_local.core.records import Prompt, Sampling
from stars_local.llama.engine import LlamaModel


def rollback_figures(
    path: Path, label: str, n_prefix: int, race: Race, n_threads: int
) -> list[Figure]:
    """Milliseconds a rejection at a prefix of `n_prefix` tokens, by strategy."""
    n_ctx = 2 * n_prefix + 512
    figures = []
    for strategy in ("branch", "snapshot"):
        with LlamaModel(
            path, n_ctx=n_ctx, n_threads=n_threads, n_seq_max=8, strategy=strategy
        ) as model:
            found = race({strategy: _reject(model, n_prefix)})[strategy]
        figures.append(summary(f"{label} rejection at {n_prefix} tokens, {strategy}", "ms", found))
    found = race({"high": _high_level(path, n_prefix, n_ctx, n_threads)})["high"]
    name = f"{label} rejection at {n_prefix} tokens, save_state and load_state"
    figures.append(summary(name, "ms", found))
    return figures


def _reject(model: LlamaModel, n_prefix: int) -> Callable[[], float]:
    """Time of a draw of one token that follows a rejection, minus that of a first draw's decode.

    A one-token proposal decodes nothing but, once, the prefix's last token; forking happens with
    two. So: draw two tokens, reject, draw two again; a rejection costs what the second round
    takes beyond its one decode, which a plain extension of the branch by one token measures.
    """
    prompt = Prompt("bench", text=text_of(model, n_prefix))
    turn = iter(range(10**9))

    def order(trunk: int, n: int) -> Order:
        return Order(trunk, (Draw((next(turn),), 64),), Boundary(n))

    def run() -> float:
        opened = model.open(prompt, Sampling(ignore_eog=True))
        try:
            trunk = opened.trunk
            two = model.propose([order(trunk, 2)])[0]
            model.reject(trunk, two)
            n_more = 16
            drawn: list[Any] = []

            def draw(n: int) -> float:
                return timed(lambda: drawn.append(model.propose([order(trunk, n)])[0]))

            short = draw(2)
            rejecting = timed(lambda: model.reject(trunk, drawn[-1]))
            long = draw(2 + n_more)
            model.reject(trunk, drawn[-1])
            a_token = (long - short) / n_more
            return 1000.0 * (rejecting + max(0.0, short - a_token))
        finally:
            model.close(opened.trunk)

    return run


def _high_level(path: Path, n_prefix: int, n_ctx: int, n_threads: int) -> Callable[[], float]:
    from llama_cpp import Llama

    llama: Any = Llama(str(path), n_ctx=n_ctx, n_threads=n_threads, verbose=False)
    ids = llama.tokenize(long_text(n_prefix * CHARS_A_TOKEN).encode())[:n_prefix]
    llama.eval(ids)

    def run() -> float:
        states: list[Any] = []
        saving = timed(lambda: states.append(llama.save_state()))
        llama.eval(ids[:2])
        return 1000.0 * (saving + timed(lambda: llama.load_state(states[0])))

    return run
