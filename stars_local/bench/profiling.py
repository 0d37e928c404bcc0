"""Group `profile`: the parts that the wall clock of an answer goes to.

One prompt, STARS with one attempt in `RATE` accepted by a coin, by segment size and width. The
shares are of the whole answer, prefill included, and add up to 1. The timers themselves cost about
a microsecond a call, which the sampling and the Python of the engine carry.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from stars_local.bench.drawn import draw
from stars_local.bench.figures import Figure, summary
from stars_local.bench.plan import Bench
from stars_local.bench.stopwatch import REST, Probe, Stopwatch
from stars_local.core.ports import RewardModel
from stars_local.core.widths import FixedWidth
from stars_local.llama.batch import Batch
from stars_local.llama.branches import Branch
from stars_local.llama.engine import LlamaModel
from stars_local.llama.library import native
from stars_local.llama.sampler import BranchChain, Candidates, Chain
from stars_local.reward.session import Session
from stars_local.reward.templates import TextEncoder

RATE = 4  # one attempt in as many is accepted
DECODE, SAMPLE = "llama_decode", "sampler chains"
ENGINE, TEXT = "Python of the engine", "text of drawn tokens"
TOKENISE, NETWORK, SCORING = "tokenising for scores", "ONNX run", "Python of scoring"
PARTS = (DECODE, SAMPLE, ENGINE, TEXT, TOKENISE, NETWORK, SCORING, REST)


def probes(rm: RewardModel) -> tuple[Probe, ...]:
    """The calls that make up an answer, of every engine and of this reward model's class."""
    return (
        Probe(DECODE, Batch, "decode", _computed),
        Probe(SAMPLE, native(), "llama_sampler_sample"),
        Probe(SAMPLE, Candidates, "draw"),
        Probe(SAMPLE, Chain, "branch"),
        *(Probe(SAMPLE, BranchChain, name) for name in ("seed_for", "accept", "give_to", "free")),
        *(
            Probe(ENGINE, LlamaModel, name)
            for name in ("open", "propose", "commit", "reject", "close")
        ),
        Probe(TEXT, Branch, "take"),
        Probe(TOKENISE, TextEncoder, "encode"),
        *(Probe(NETWORK, Session, name) for name in ("run", "run_on")),
        Probe(SCORING, type(rm), "score"),
    )


def profile(bench: Bench) -> Iterator[Figure]:
    """The share of each part, by width."""
    rm = bench.reward_model()
    for label, path in bench.files(bench.sizes.quants).items():
        with bench.open_for(path, max(bench.sizes.policies)) as model:
            for segment, width in _shapes(bench):
                found = bench.race({"": _answer(bench, model, rm, width, segment)})[""]
                name = f"{label} STARS ({segment}), one attempt in {RATE} accepted, width {width}"
                for part in PARTS:
                    shares = [each.get(part, 0.0) for each in found]
                    yield summary(f"{name}, share of {part}", "share", shares, "its own time")


def n_races_of_profile(bench: Bench) -> int:
    """Races of `profile`."""
    return len(bench.sizes.quants) * len(_shapes(bench))


def _shapes(bench: Bench) -> list[tuple[int, int]]:
    """Segment size and width of each measurement."""
    return list(itertools.product(bench.sizes.profiled_segments, bench.sizes.policies))


def _answer(
    bench: Bench, model: LlamaModel, rm: RewardModel, width: int, segment: int
) -> Callable[[], dict[str, float]]:
    answers = bench.coined_answers(model, RATE, lambda: FixedWidth(width), segment)

    def run() -> dict[str, float]:
        watch = Stopwatch()
        with watch.attached(probes(rm)):
            draw(model, rm, [next(answers)])
        return watch.shares()

    return run


def _computed(_batch: Batch, context: Any, _n: int) -> None:
    """Wait for the logits: on a GPU `llama_decode` returns before they are there."""
    native().llama_synchronize(context)
