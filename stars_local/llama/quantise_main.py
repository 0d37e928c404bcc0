"""The process that quantises one file: an order as JSON in its first argument.

llama.cpp's log goes to stdout, where the parent counts tensors; its errors go to stderr too.
Exit code 0 says that the target is written.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

from stars_local.core.children import end_with_parent

_ERROR = 4  # GGML_LOG_LEVEL_ERROR


def main() -> None:
    """Do the order and exit."""
    end_with_parent()
    order = json.loads(sys.argv[1])
    try:
        done = _quantise(order)
    except (ValueError, OSError, MemoryError) as error:
        sys.stderr.write(f"{error}\n")
        done = False
    sys.exit(0 if done else 1)


def _quantise(order: dict[str, Any]) -> bool:
    from llama_cpp import llama_cpp

    def log(level: int, text: bytes, _user_data: object) -> None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
        if level == _ERROR:
            sys.stderr.write(text.decode("utf-8", "replace"))
            sys.stderr.flush()

    callback = llama_cpp.llama_log_callback(log)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = order["ftype"]
    params.nthread = order["n_threads"]
    params.allow_requantize = True
    if order["imatrix"] is not None:
        weights = read_imatrix(Path(order["imatrix"]))
        entries = (llama_cpp.llama_model_imatrix_data * (len(weights) + 1))()  # ends with nulls
        for entry, (name, values) in zip(entries, weights.items(), strict=False):
            entry.name = name.encode()
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = values.size
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    code: int = llama_cpp.llama_model_quantize(
        os.fsencode(order["source"]), os.fsencode(order["target"]), ctypes.byref(params)
    )
    return code == 0


def read_imatrix(path: Path) -> dict[str, Any]:
    """Importances by tensor: float32 arrays, the mean square of each input.

    The file is a GGUF as `llama-imatrix` writes it: `NAME.in_sum2` over `NAME.counts`. A tensor
    that saw no data has importance 1. Raises ValueError for any other file.
    """
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    weights = {}
    for name, sums in tensors.items():
        stem = name.removesuffix(".in_sum2")
        if stem == name:
            continue
        counts = tensors.get(f"{stem}.counts")
        if counts is None:
            raise ValueError(f"{path} has {name} and no {stem}.counts: make it anew")
        per_row = np.asarray(counts, dtype=np.float32).reshape(-1, 1)
        rows = np.asarray(sums, dtype=np.float32).reshape(len(per_row), -1)
        means = np.where(per_row > 0, rows / np.maximum(per_row, 1.0), 1.0)
        if not np.isfinite(means).all() or (means < 0).any():
            raise ValueError(f"{path}: {name} has values that are no mean squares: make it anew")
        weights[stem] = np.ascontiguousarray(means, dtype=np.float32).reshape(-1)
    if not weights:
        raise ValueError(f"{path} is no importance matrix (no tensor NAME.in_sum2)")
    return weights
