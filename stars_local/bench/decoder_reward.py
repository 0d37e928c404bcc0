"""Group `decoder`: what a segment costs a decoder reward model, by what stands before it.

A decoder of SmolLM2-135M's shape with random weights, which cost what trained ones cost, is
exported when the group runs; that needs torch. Its vocabulary is small: rows of an embedding
table that are not looked up cost nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stars_local.bench.figures import Figure, ratio, summary, timed
from stars_local.bench.plan import Bench
from stars_local.core.errors import RewardError

if TYPE_CHECKING:
    from stars_local.reward.session import Session

N_PROMPT, SEGMENT = 64, 32
RESPONSES = (50, 1000)
N_SEGMENTS = 4  # scored one after another in a run, so that growing the cache is part of it
_SEED = 0
_TAIL = (1, 2)


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's sizes; the default is SmolLM2-135M's but for its 49,152 tokens."""

    hidden: int = 576
    layers: int = 30
    heads: int = 9
    groups: int = 3
    intermediate: int = 1536
    vocabulary: int = 512


def decoder(bench: Bench) -> Iterator[Figure]:
    """Milliseconds to score a segment with past keys and values, and reading all again."""
    try:
        with tempfile.TemporaryDirectory(dir=bench.folder) as scratch:
            bench.say("exporting a decoder of SmolLM2-135M's shape with random weights")
            path = Path(scratch) / "model.onnx"
            write_decoder(path, Shape(layers=bench.sizes.decoder_layers))
            yield from decoder_figures(bench, path)
    except ModuleNotFoundError as error:
        bench.say(f"the group 'decoder' needs {error.name}: pip install 'stars-local[train]'")


def n_races_of_decoder(bench: Bench) -> int:
    """Races of `decoder`."""
    return 1


def write_decoder(path: Path, shape: Shape) -> None:
    """Export random weights of a shape; ModuleNotFoundError without torch and transformers."""
    import torch
    import transformers

    from stars_local.exporting.architectures import AxesOf, LastToken
    from stars_local.exporting.graph import to_onnx_with_past

    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        intermediate_size=shape.intermediate,
        max_position_embeddings=8192,
        pad_token_id=0,
        num_labels=1,
        attn_implementation="eager",
    )
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        model = transformers.LlamaForSequenceClassification(config).eval()
    network = AxesOf(LastToken(model), 1, (("reward", (0,), ()),)).eval()
    to_onnx_with_past(network, 0, path)


def decoder_figures(
    bench: Bench, path: Path, responses: Sequence[int] = RESPONSES
) -> Iterator[Figure]:
    """The group's figures for an exported decoder; responses: tokens before the segments."""
    from stars_local.reward.session import Session

    session = Session(path, "cpu", bench.n_threads)
    contenders: dict[str, Callable[[], float]] = {}
    for n in responses:
        contenders[f"past {n}"] = _with_past(session, n)
        contenders[f"full {n}"] = _full(session, n)
    found = bench.race(contenders)
    least = responses[0]
    for how, words in (("past", "with past"), ("full", "reading all again")):
        for n in responses:
            name = f"decoder reward of a segment of {SEGMENT} after {n} tokens, {words}"
            yield summary(name, "ms", found[f"{how} {n}"])
            if n != least:
                versus = f"a segment after {least} tokens"
                yield ratio(f"{name}, cost", versus, found[f"{how} {n}"], found[f"{how} {least}"])
    for n in responses:
        name = f"decoder reward after {n} tokens, with past, cost"
        yield ratio(name, "reading all again", found[f"past {n}"], found[f"full {n}"])


def _text(n_tokens: int) -> list[int]:
    """Token ids as good as any."""
    return [3 + i * 7919 % 500 for i in range(n_tokens)]


def _with_past(session: Session, n: int) -> Callable[[], float]:
    from stars_local.reward.prefixes import PrefixCache

    def run() -> float:
        cache = PrefixCache(session, 0)
        before = N_PROMPT + n
        text = _text(before + N_SEGMENTS * SEGMENT)
        one = (len(_TAIL), lambda rows, _: iter([[i] for i in range(len(rows))]))
        cache.score("bench", [[*text[:before], *_TAIL]], *one)
        ends = range(before + SEGMENT, len(text) + 1, SEGMENT)
        took = timed(lambda: [cache.score("bench", [[*text[:end], *_TAIL]], *one) for end in ends])
        if cache.kept("bench") != text[: len(text) - SEGMENT]:
            raise RewardError("the bench of the decoder lost its prefix")
        return 1000.0 * took / N_SEGMENTS

    return run


def _full(session: Session, n: int) -> Callable[[], float]:
    from stars_local.reward.templates import pad_right

    row = [*_text(N_PROMPT + n + SEGMENT), *_TAIL]
    return lambda: 1000.0 * timed(lambda: session.run(*pad_right([row], 0)))
