"""The measurement of wide batches: how long it takes, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stars_local.llama import speed
from stars_local.llama.engine import LlamaModel
from tests.support.language_models import tiny_path


@pytest.fixture(name="model")
def _model() -> Iterator[LlamaModel]:
    with LlamaModel(tiny_path("llama"), n_ctx=512, n_threads=1, n_seq_max=16) as model:
        yield model


@pytest.mark.parametrize(("enough_s", "n_rounds"), [(1e9, 4), (0.0, 1)])
def test_a_slow_model_is_measured_by_one_round(
    model: LlamaModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    enough_s: float,
    n_rounds: int,
) -> None:
    monkeypatch.setattr(speed, "_ENOUGH_S", enough_s)
    calls: list[int] = []
    timed = speed._timed

    def counted(model: LlamaModel, order: object) -> float:
        calls.append(1)
        return timed(model, order)  # type: ignore[arg-type]

    monkeypatch.setattr(speed, "_timed", counted)
    costs = speed.step_costs(model, tmp_path, 2)
    assert list(costs.by_width) == [1, 2]
    assert len(calls) == 2 * 2 * n_rounds  # a short and a long draw, at two widths
    assert all(cost > 0 for cost in costs.by_width.values())
    assert speed.step_costs(model, tmp_path, 2) == costs
    assert len(calls) == 2 * 2 * n_rounds


def test_a_cache_of_nonsense_is_measured_anew(model: LlamaModel, tmp_path: Path) -> None:
    costs = speed.step_costs(model, tmp_path, 2)
    (file,) = tmp_path.iterdir()
    for nonsense in ("", "[]", '{"one": 1}', "\xff"):
        file.write_text(nonsense, encoding="latin-1")
        assert set(speed.step_costs(model, tmp_path, 2).by_width) == set(costs.by_width)
        assert file.read_text().startswith('{"1"')
