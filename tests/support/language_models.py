"""Every implementation of the language-model port, small enough for the contract suite."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from stars_local.core.boundaries import Boundary
from stars_local.core.doubles import EnumerableModel
from stars_local.core.ports import Draw, LanguageModel, Order
from stars_local.core.records import Prompt, Proposal
from stars_local.llama.engine import LlamaModel
from tests.support.tiny_gguf import ARCHITECTURES, write_tiny

_FOLDER = TemporaryDirectory(prefix="tiny-gguf-")
_VOCABULARY = (*"abcdefghijklmnopqrstuvwxyz ", ". ", "é", "\n", "the")


@cache
def tiny_path(architecture: str) -> Path:
    """A tiny GGUF of an architecture, written once a test run."""
    return write_tiny(Path(_FOLDER.name) / f"{architecture}.gguf", architecture)


@dataclass(frozen=True, slots=True)
class Implementation:
    """A way to make a model. `has_cells`: whether cells, not only sequences, run out."""

    name: str
    make: Callable[[int, int], LanguageModel]
    free: Callable[[LanguageModel], None]

    @contextmanager
    def model(self, n_ctx: int = 512, n_seqs: int = 24) -> Iterator[LanguageModel]:
        """A model whose context has `n_ctx` tokens and `n_seqs` sequences, trunks included."""
        model = self.make(n_ctx, n_seqs)
        try:
            yield model
        finally:
            self.free(model)


def _double(n_ctx: int, n_seqs: int) -> LanguageModel:
    return EnumerableModel(_VOCABULARY, _weights, n_ctx=n_ctx, max_branches=n_seqs - 1)


def _weights(ids: tuple[int, ...]) -> Sequence[float]:
    """A distribution that depends on all tokens; the end token is rare."""
    raw = hashlib.blake2b(bytes(ids), digest_size=len(_VOCABULARY)).digest()
    weights = [(byte / 255.0) ** 3 + 0.01 for byte in raw]
    total = sum(weights) * 1.01
    return [*(weight / total for weight in weights), 1.0 - 1.0 / 1.01]


def _tiny(architecture: str, strategy: str, *, unified: bool) -> Implementation:
    def make(n_ctx: int, n_seqs: int) -> LanguageModel:
        return LlamaModel(
            tiny_path(architecture),
            n_ctx=n_ctx,
            n_seq_max=n_seqs,
            n_threads=1,
            strategy=strategy,
            unified=unified,
        )

    streams = "" if unified else "-streams"
    return Implementation(f"{architecture}-{strategy}{streams}", make, _unload)


def _unload(model: LanguageModel) -> None:
    if isinstance(model, LlamaModel):
        model.unload()


IMPLEMENTATIONS = (
    Implementation("double", _double, lambda model: None),
    *(
        _tiny(architecture, strategy, unified=True)
        for architecture in ARCHITECTURES
        for strategy in ("branch", "snapshot")
    ),
    _tiny("llama", "branch", unified=False),
    _tiny("jamba", "branch", unified=False),
)


def prompt(text: str = "Once upon a time", name: str = "p") -> Prompt:
    """A raw prompt."""
    return Prompt(name, text=text)


def draws(*seeds: int) -> tuple[Draw, ...]:
    """Draws with one seed each."""
    return tuple(Draw((seed,), 2**31) for seed in seeds)


def propose(
    model: LanguageModel, trunk: int, *seeds: int, boundary: Boundary | int = 8
) -> tuple[Proposal, ...]:
    """Proposals of one order; a number is a fixed boundary."""
    rule = Boundary(boundary) if isinstance(boundary, int) else boundary
    (proposals,) = model.propose([Order(trunk, draws(*seeds), rule)])
    return proposals


def content(proposals: Sequence[Proposal]) -> list[object]:
    """Proposals without their handles."""
    return [(p.token_ids, p.text, p.end, p.n_backtrack, p.logprobs) for p in proposals]
