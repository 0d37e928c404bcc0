"""Bound runs give what plain ones give, and are what CUDA sessions do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from stars_local.core.errors import RewardError
from stars_local.core.records import Message, Prompt
from stars_local.reward import session
from stars_local.reward.binding import run_bound
from stars_local.reward.onnx_model import OnnxRewardModel
from stars_local.reward.runtime import onnxruntime
from tests.support.tiny_reward import write_tiny_reward

ITEMS = [
    (Prompt("p", (Message("user", "kill"),)), text) for text in ("sorry", "", "kill kill sorry")
]


@pytest.fixture(name="doubler", scope="module")
def _doubler() -> Any:
    """A network that doubles `x` and passes `past` on."""
    kinds = {"x": (TensorProto.FLOAT, ["n", "m"]), "past": (TensorProto.FLOAT, ["t", 2])}
    values = {name: helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()}
    outputs = [
        helper.make_tensor_value_info("twice", *kinds["x"]),
        helper.make_tensor_value_info("new", *kinds["past"]),
    ]
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Identity", ["past"], ["new"]),
    ]
    graph = helper.make_graph(nodes, "doubler", list(values.values()), outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    providers = ["CPUExecutionProvider"]
    return onnxruntime().InferenceSession(model.SerializeToString(), providers=providers)


@pytest.mark.parametrize("n_past", [0, 3])
@pytest.mark.parametrize("names", [["twice", "new"], ["new", "twice"], ["twice"]])
def test_outputs_come_as_asked_even_of_nothing_and_of_views(
    doubler: Any, names: list[str], n_past: int
) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]  # neither whole nor in order
    feeds = {"x": x, "past": np.full((n_past, 2), 7, dtype=np.float32)}
    found = run_bound(doubler, "cpu", names, feeds)
    wanted = {"twice": 2 * x, "new": feeds["past"]}
    assert len(found) == len(names)
    for name, array in zip(names, found, strict=True):
        np.testing.assert_array_equal(array, wanted[name])


def test_a_cuda_session_runs_bound_and_any_other_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []

    def here(found: Any, device: str, names: Sequence[str], feeds: Mapping[str, Any]) -> Any:
        devices.append(device)
        return run_bound(found, "cpu", names, feeds)

    monkeypatch.setattr(session, "run_bound", here)
    model = OnnxRewardModel(write_tiny_reward(tmp_path / "m"), provider="cpu", trusted=True)
    plain = model.score(ITEMS)
    assert devices == []
    model._session.provider = "cuda"
    assert model.score(ITEMS) == plain
    assert set(devices) == {"cuda"}


def test_what_the_runtime_refuses_is_ours_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OnnxRewardModel(write_tiny_reward(tmp_path / "m"), provider="cpu", trusted=True)
    model._session.provider = "cuda"

    def refused(*_: Any) -> Any:
        raise RuntimeError("CUDA error 2:\nout of memory")

    monkeypatch.setattr(session, "run_bound", refused)
    with pytest.raises(RewardError, match="CUDA error 2: out of memory"):
        model.score(ITEMS)
