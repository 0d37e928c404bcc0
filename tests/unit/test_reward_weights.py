"""Smaller weights: how far they round, and that only they do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from stars_local.exporting import weights
from stars_local.reward import session
from stars_local.reward.check import independence
from stars_local.reward.golden import golden_texts
from stars_local.reward.manifest import write_manifest
from stars_local.reward.onnx_model import OnnxRewardModel
from stars_local.reward.session import Session
from tests.support.tiny_reward import manifest_of, sha256, tiny_tokenizer

N_ROWS, WIDTH = 64, 48


@given(
    weight=arrays(
        np.float32, (5, 7), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
    ),
    axis=st.sampled_from((0, 1)),
)
def test_int8_is_off_by_half_a_step_of_its_channel(weight: np.ndarray, axis: int) -> None:
    values, scale = weights.quantise(weight, axis)
    along = scale[:, None] if axis == 0 else scale[None, :]
    assert values.dtype == np.int8
    assert abs(values.astype(int)).max() <= 127
    assert (np.abs(values * along - weight) <= 0.501 * along).all()
    largest = np.abs(weight).max(axis=1 - axis)
    assert scale[largest > 0] == pytest.approx(largest[largest > 0] / 127)


def two_layers(n_labels: int = 2) -> onnx.ModelProto:
    """Mean of table rows, a hidden layer by MatMul, a head by Gemm with a transposed weight."""
    rng = np.random.default_rng(0)
    make = helper.make_node
    tensors = {
        "table": rng.normal(size=(N_ROWS, WIDTH)).astype(np.float32),
        "hidden": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32),
        "head": rng.normal(size=(n_labels * 20, WIDTH)).astype(np.float32),
        "one": np.array([1]),
        "two": np.array([2]),
    }
    nodes = [
        make("Gather", ["table", "input_ids"], ["rows"]),
        make("MatMul", ["rows", "hidden"], ["inner"]),
        make("Tanh", ["inner"], ["bent"]),
        make("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        make("Unsqueeze", ["real", "two"], ["wide"]),
        make("Mul", ["bent", "wide"], ["kept"]),
        make("ReduceSum", ["kept", "one"], ["total"], keepdims=0),
        make("ReduceSum", ["real", "one"], ["count"], keepdims=1),
        make("Div", ["total", "count"], ["mean"]),
        make("Gemm", ["mean", "head"], ["rewards"], transB=1),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("rewards", TensorProto.FLOAT, ["batch", None])
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "two", inputs, [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def written(path: Path, precision: str) -> Path:
    model = two_layers()
    weights.shrink(model, precision)
    onnx.checker.check_model(model)
    weights.save(model, path)
    return path


def outputs(path: Path) -> np.ndarray:
    ids = np.random.default_rng(1).integers(0, N_ROWS, (9, 12))
    return Session(path, "cpu", 1).run(ids, np.ones_like(ids))


@pytest.mark.parametrize(("precision", "share", "off"), [("fp16", 0.55, 2e-3), ("int8", 0.4, 0.1)])
def test_smaller_files_give_nearly_the_same_outputs(
    tmp_path: Path, precision: str, share: float, off: float
) -> None:
    whole = written(tmp_path / "whole.onnx", "fp32")
    small = written(tmp_path / "small.onnx", precision)
    assert small.stat().st_size < share * whole.stat().st_size
    difference = np.abs(outputs(small) - outputs(whole)).max()
    assert 0 < difference < off * outputs(whole).std()


def test_int8_computes_with_exactly_the_rounded_weights(tmp_path: Path) -> None:
    """The file's graph equals a float32 graph of dequantised weights: nothing else is rounded."""
    rounded = two_layers()
    for tensor in rounded.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            axis = 1 if tensor.name == "hidden" else 0
            values, scale = weights.quantise(array, axis)
            along = scale[:, None] if axis == 0 else scale[None, :]
            tensor.CopyFrom(numpy_helper.from_array(values * along, tensor.name))
    onnx.save_model(rounded, str(tmp_path / "rounded.onnx"))
    small = outputs(written(tmp_path / "small.onnx", "int8"))
    assert small == pytest.approx(outputs(tmp_path / "rounded.onnx"), abs=1e-5)


@pytest.mark.parametrize("fold_max_bytes", [0, session.FOLD_MAX_BYTES])
def test_int8_scores_do_not_depend_on_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold_max_bytes: int
) -> None:
    monkeypatch.setattr(session, "FOLD_MAX_BYTES", fold_max_bytes)
    written(tmp_path / "model.onnx", "int8")
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    write_manifest(tmp_path, manifest_of(tmp_path))
    model = OnnxRewardModel(tmp_path, provider="cpu", threads=1, trusted=True)
    found = independence(model, [model.encode(*item) for item in golden_texts()])
    assert found.worst < 1e-5


def test_a_table_that_is_also_multiplied_stays_a_matrix(tmp_path: Path) -> None:
    model = two_layers()
    model.graph.node[1].input[1] = "square"
    square = numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "square")
    model.graph.initializer.append(square)
    model.graph.node.insert(0, helper.make_node("Gather", ["square", "input_ids"], ["unused"]))
    weights.shrink(model, "int8")
    kinds = [node.op_type for node in model.graph.node if "square_fp32" in node.output]
    assert kinds == ["DequantizeLinear"]
    onnx.checker.check_model(model)


def test_large_weights_go_to_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = outputs(written(tmp_path / "one.onnx", "fp32"))
    monkeypatch.setattr(weights, "MAX_ONE_FILE_BYTES", 1000)
    (tmp_path / "two").mkdir()
    path = tmp_path / "two" / "model.onnx"
    assert weights.save(two_layers(), path) == ["model.onnx", weights.DATA_FILE]
    tiny_tokenizer().save(str(path.parent / "tokenizer.json"))
    digest = sha256(path.parent / weights.DATA_FILE)
    manifest = replace(manifest_of(path.parent), data_files={weights.DATA_FILE: digest})
    write_manifest(path.parent, manifest)
    OnnxRewardModel(path.parent, provider="cpu", trusted=True)
    assert outputs(path) == pytest.approx(before)
