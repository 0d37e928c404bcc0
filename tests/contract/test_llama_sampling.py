"""Tokens are the same however many threads draw them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stars_local.core.boundaries import Boundary
from stars_local.core.ports import Draw, Order
from stars_local.core.records import Prompt, Sampling
from stars_local.llama import sampling
from stars_local.llama.engine import LlamaModel
from tests.support.tiny_gguf import write_tiny

N_DRAWS = 12


@pytest.fixture(scope="module", name="path")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama")


@pytest.fixture(name="shares", params=[1, 2, 3])
def _shares(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """How many threads draw; the fewest places that a share has are set to suit."""
    monkeypatch.setattr(sampling, "MIN_SHARE", N_DRAWS // request.param)
    yield request.param


def drawn(path: Path, threads: int, plan: Sampling) -> list[tuple[int, ...]]:
    with LlamaModel(path, n_ctx=512, n_threads=threads, n_seq_max=N_DRAWS + 1) as model:
        trunk = model.open(Prompt("p", text="Once upon a time"), plan).trunk
        draws = tuple(Draw((seed,), 9) for seed in range(N_DRAWS))
        (proposals,) = model.propose([Order(trunk, draws, Boundary(9))])
        return [proposal.token_ids for proposal in proposals]


@pytest.mark.parametrize(
    "plan",
    [Sampling(), Sampling(temperature=0.0), Sampling(repeat_penalty=1.3, top_p=0.9)],
    ids=["plain", "greedy", "penalties"],
)
def test_threads_change_no_token(
    path: Path, shares: int, plan: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    threaded = drawn(path, 3, plan)
    monkeypatch.setattr(sampling, "MIN_SHARE", N_DRAWS + 1)
    assert threaded == drawn(path, 3, plan)
    assert shares == 1 or plan.temperature == 0 or len(set(threaded)) > 1


def test_threads_start_when_needed_and_end_with_the_model(path: Path) -> None:
    pool = sampling.SamplingPool(4)
    pool.close()
    with LlamaModel(path, n_ctx=512, n_threads=4, n_seq_max=40) as model:
        trunk = model.open(Prompt("p", text="Once"), Sampling(ignore_eog=True)).trunk
        own = model._runtime.sampling
        for n, started in ((4, False), (2 * sampling.MIN_SHARE, True)):
            draws = tuple(Draw((seed,), 3) for seed in range(n))
            (found,) = model.propose([Order(trunk, draws, Boundary(3))])
            assert (own._pool is not None) is started
            model.reject(trunk, found)
    assert own._pool is None
