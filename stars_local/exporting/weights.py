"""Smaller weights in an ONNX graph, with the arithmetic left in float32.

    int8   weight = int8 * scale, a scale for every output channel (matrices) or row (tables)
    fp16   weight in half precision

Only stored weights are rounded, never activations: a text's score cannot depend on what else is
in its batch, as it does with dynamic quantisation. Matrices stand behind `DequantizeLinear`.
An embedding table is looked up as int8 and then scaled, the same product for the rows in use
only: behind `DequantizeLinear` the whole table would be multiplied out for every batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

DATA_FILE = "model.onnx.data"
# The protobuf format ends at 2 GiB; larger weights go to a file of their own.
MAX_ONE_FILE_BYTES = 1_900_000_000
_MIN_VALUES = 1024  # smaller weights, such as heads, stay as they are


def shrink(model: ModelProto, precision: str) -> None:
    """Store the weight matrices and tables of a float32 graph as int8 or fp16, in place.

    precision: fp32 (nothing happens), fp16 or int8.
    """
    if precision == "fp32":
        return
    stored = {tensor.name: tensor for tensor in model.graph.initializer if _is_large(tensor)}
    looked_up = _only_looked_up(model, stored) if precision == "int8" else set()
    done: set[str] = set()
    nodes: list[Any] = []
    for node in model.graph.node:
        parts: list[Any] = [node]
        for at, name in enumerate(node.input):
            if name not in stored:
                continue
            weight = _array(stored[name])
            extra: list[Any] = []
            if name in looked_up:
                parts = _scaled_lookup(node, name)
                extra = _table(name, weight)
            else:
                node.input[at] = f"{name}_fp32"
                if name not in done:
                    axis = _output_axis(node, at)
                    made, extra = (
                        _half(name, weight) if precision == "fp16" else _matrix(name, weight, axis)
                    )
                    parts = [made, *parts]
            if name not in done:
                model.graph.initializer.remove(stored[name])
                model.graph.initializer.extend(extra)
                done.add(name)
        nodes += parts
    _set_nodes(model, nodes)


def save(model: ModelProto, path: Path) -> list[str]:
    """Write the graph, large weights in a second file; the names of the files written."""
    import onnx

    n_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if n_bytes <= MAX_ONE_FILE_BYTES:
        onnx.save_model(model, str(path))
        return [path.name]
    onnx.save_model(
        model, str(path), save_as_external_data=True, all_tensors_to_one_file=True,
        location=DATA_FILE,
    )  # fmt: skip
    return [path.name, DATA_FILE]


def quantise(
    weight: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(int8 values, scales along `axis`): each channel's largest weight becomes 127 or -127."""
    import numpy as np

    scale = np.abs(weight).max(axis=1 - axis).astype(np.float32) / np.float32(127)
    scale[scale == 0] = 1
    along = scale[:, None] if axis == 0 else scale[None, :]
    return np.clip(np.rint(weight / along), -127, 127).astype(np.int8), scale


def _is_large(tensor: TensorProto) -> bool:
    is_matrix = len(tensor.dims) == 2 and tensor.data_type == tensor.FLOAT
    return is_matrix and tensor.dims[0] * tensor.dims[1] >= _MIN_VALUES


def _array(tensor: TensorProto) -> NDArray[np.float32]:
    from onnx import numpy_helper

    array: NDArray[np.float32] = numpy_helper.to_array(tensor)
    return array


def _only_looked_up(model: ModelProto, names: Iterable[str]) -> set[str]:
    """Those weights that no node does anything with but look rows up."""
    found = set(names)
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if node.op_type != "Gather" or at != 0:
                found.discard(name)
    return found


def _output_axis(node: NodeProto, at: int) -> int:
    """Along which axis of a matrix the outputs lie: 0 in a Gemm with a transposed weight."""
    if node.op_type == "Gemm" and at == 1:
        return 0 if any(a.name == "transB" and a.i == 1 for a in node.attribute) else 1
    return 1 if node.op_type == "MatMul" and at == 1 else 0


def _matrix(name: str, weight: NDArray[np.float32], axis: int) -> tuple[Any, list[Any]]:
    import numpy as np
    from onnx import helper, numpy_helper

    values, scale = quantise(weight, axis)
    tensors = [
        numpy_helper.from_array(values, f"{name}_int8"),
        numpy_helper.from_array(scale, f"{name}_scale"),
        numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}_zero"),
    ]
    inputs = [tensor.name for tensor in tensors]
    node = helper.make_node("DequantizeLinear", inputs, [f"{name}_fp32"], axis=axis)
    return node, tensors


def _table(name: str, weight: NDArray[np.float32]) -> list[Any]:
    from onnx import numpy_helper

    values, scale = quantise(weight, 0)
    return [
        numpy_helper.from_array(values, f"{name}_int8"),
        numpy_helper.from_array(scale[:, None], f"{name}_scale"),
    ]


def _half(name: str, weight: NDArray[np.float32]) -> tuple[Any, list[Any]]:
    import numpy as np
    from onnx import helper, numpy_helper

    largest = np.finfo(np.float16).max
    tensor = numpy_helper.from_array(
        np.clip(weight, -largest, largest).astype(np.float16), f"{name}_fp16"
    )
    return helper.make_node("Cast", [tensor.name], [f"{name}_fp32"], to=1), [tensor]


def _scaled_lookup(node: NodeProto, name: str) -> list[Any]:
    """Gather(table, ids) as Cast(Gather(int8, ids)) * Gather(scale, ids)."""
    from onnx import helper

    ids, output = node.input[1], node.output[0]
    return [
        helper.make_node("Gather", [f"{name}_int8", ids], [f"{output}_int8"]),
        helper.make_node("Cast", [f"{output}_int8"], [f"{output}_value"], to=1),
        helper.make_node("Gather", [f"{name}_scale", ids], [f"{output}_scale"]),
        helper.make_node("Mul", [f"{output}_value", f"{output}_scale"], [output]),
    ]


def _set_nodes(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
