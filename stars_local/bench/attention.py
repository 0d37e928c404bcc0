"""Group `attention`: products of matrices against llama.cpp's fused kernel, on this CPU.

The fused kernel ("flash attention") is what llama.cpp takes by itself. `LlamaModel` does without
it on a CPU; here is what that gains at a step, by what stands before it and how many branches or
prompts share it, and what it costs a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from stars_local.bench.engine import lockstep_steps, proposals
from stars_local.bench.figures import Figure, ratio
from stars_local.bench.plan import Bench
from stars_local.bench.sources import text_of
from stars_local.llama.speed import prefill_rate

WIDTHS = (1, 8)
_EVERY = 2  # of the lengths that `costs` has


def attention(bench: Bench) -> Iterator[Figure]:
    """Speeds of one context over those of another that differs in nothing else."""
    sizes = bench.sizes
    lengths = sizes.prefixes[::_EVERY]
    n_ctx = max(4096, lengths[-1] + (2 + max(WIDTHS)) * 2 * sizes.segment)
    for label, path in bench.files(sizes.quants[:1]).items():
        opened = partial(bench.open, path, n_ctx, 2 + max(WIDTHS), n_gpu_layers=0)
        with opened(fused=True) as fused, opened(fused=False) as apart:
            for n in lengths:
                text = text_of(apart, n)
                for width in WIDTHS:
                    found = bench.race(
                        {
                            "fused": proposals(fused, width, text),
                            "apart": proposals(apart, width, text),
                        }
                    )
                    name = f"{label} step at {n} tokens, width {width}, speed"
                    yield ratio(name, "fused attention", found["apart"], found["fused"])
            found = bench.race(
                {
                    "fused": partial(prefill_rate, fused, lengths[-1]),
                    "apart": partial(prefill_rate, apart, lengths[-1]),
                }
            )
            name = f"{label} prompt of {lengths[-1]} tokens, speed"
            yield ratio(name, "fused attention", found["apart"], found["fused"])
        n_most = max(sizes.lockstep)
        opened = partial(bench.open, path, sizes.cells, n_most + 1, unified=False, n_gpu_layers=0)
        with opened(fused=True) as fused, opened(fused=False) as apart:
            text = text_of(apart, sizes.n_prompt)
            for n in sizes.lockstep:
                found = bench.race(
                    {
                        "fused": lockstep_steps(fused, n, text),
                        "apart": lockstep_steps(apart, n, text),
                    }
                )
                name = f"{label} step of {n} prompts, speed"
                yield ratio(name, "fused attention", found["apart"], found["fused"])


def n_races_of_attention(bench: Bench) -> int:
    """Races of `attention`."""
    sizes = bench.sizes
    n_contexts = len(sizes.prefixes[::_EVERY]) * len(WIDTHS)
    return n_contexts + 1 + len(sizes.lockstep)
