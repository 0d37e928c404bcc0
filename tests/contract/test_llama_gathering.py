"""Gathering the winner's cells changes where they lie and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stars_local.llama import gathering
from stars_local.llama.engine import LlamaModel
from tests.contract.test_llama_rollback import PLAIN, TOLERANCE, fresh_logits, load
from tests.support.language_models import prompt, propose

N_SEGMENTS, SIZE = 4, 12


def grow(model: LlamaModel, width: int) -> tuple[list[int], Any]:
    """Commit a few segments, each the last of its round; all token ids and the next logits."""
    trunk = model.open(prompt("Once upon a time"), PLAIN).trunk
    for segment in range(N_SEGMENTS):
        seeds = range(100 * segment, 100 * segment + width)
        proposals = propose(model, trunk, *seeds, boundary=SIZE)
        model.commit(trunk, proposals[-1])
    ids = [*model.encode(prompt("Once upon a time")), *model.response_ids(trunk)]
    return ids, model.next_logits(trunk)


@pytest.fixture(name="moved")
def _moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes were moved, by commit."""
    moved: list[int] = []
    load_sequence = gathering.load_sequence

    def counting(context: Any, seq: int, state: Any) -> bool:
        moved.append(len(state))
        return load_sequence(context, seq, state)

    monkeypatch.setattr(gathering, "load_sequence", counting)
    return moved


@pytest.mark.parametrize("width", [4, 8])
def test_wide_rounds_are_gathered_and_nothing_else_changes(width: int, moved: list[int]) -> None:
    with load("llama") as model:
        ids, logits = grow(model, width)
        n_held = model._runtime.ledger.n_held
    assert len(moved) == N_SEGMENTS
    assert n_held == len(ids)
    assert np.abs(logits - fresh_logits("llama", ids)).max() < TOLERANCE


@pytest.mark.parametrize(
    ("architecture", "options", "width"),
    [
        ("llama", {}, 2),
        ("llama", {"strategy": "snapshot"}, 8),
        ("llama", {"unified": False}, 8),
        ("gemma3", {}, 8),
        ("mamba", {}, 8),
        ("jamba", {}, 8),
    ],
)
def test_what_cannot_or_need_not_be_gathered_is_left_alone(
    architecture: str, options: dict[str, Any], width: int, moved: list[int]
) -> None:
    with load(architecture, **options) as model:
        grow(model, width)
    assert not moved


def test_cells_that_cannot_be_placed_again_are_decoded_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "load_sequence", lambda context, seq, state: False)
    with load("llama") as model:
        ids, logits = grow(model, 8)
        assert model._runtime.ledger.n_held == len(ids)
    assert np.abs(logits - fresh_logits("llama", ids)).max() < TOLERANCE
