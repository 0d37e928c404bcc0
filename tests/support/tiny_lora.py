"""A tiny LoRA adapter for the tiny "llama" file."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

_N_EMBD, _RANK = 32, 2


def write_tiny_lora(path: Path, *, seed: int = 0, architecture: str = "llama") -> Path:
    """Write an adapter of the first layer's query matrix to `path` and return the path."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(_RANK))
    rng = np.random.default_rng(seed)
    for side, shape in (("lora_a", (_RANK, _N_EMBD)), ("lora_b", (_N_EMBD, _RANK))):
        values = rng.normal(size=shape).astype(np.float32)
        writer.add_tensor(f"blk.0.attn_q.weight.{side}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
