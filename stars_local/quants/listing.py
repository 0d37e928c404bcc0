"""What a GGUF file really holds: the name of a type says little where tensors fall back."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stars_local.llama.gguf_check import check_gguf

FLOATS = ("F32", "F16", "BF16")
_K_WIDTH = 256  # values of a K-quant's block: rows of other widths fall back to other types


@dataclass(frozen=True, slots=True)
class Listing:
    """quant: the type that the file calls itself. n_tensors: by tensor type, most bytes first.
    bpw: bits a weight over all tensors. n_fallbacks: quantised matrices whose rows are no
    multiple of 256 in a file of K- or I-quants, and so have another type."""

    path: Path
    quant: str
    n_bytes: int
    n_weights: int
    bpw: float
    n_tensors: dict[str, int]
    n_fallbacks: int

    def as_json(self) -> dict[str, Any]:
        """The listing as JSON values."""
        return {
            "path": str(self.path),
            "quant": self.quant,
            "size_bytes": self.n_bytes,
            "n_weights": self.n_weights,
            "bpw": self.bpw,
            "tensors": self.n_tensors,
            "n_fallbacks": self.n_fallbacks,
        }

    def as_text(self) -> str:
        """The listing on one line."""
        tensors = ", ".join(f"{n} {kind}" for kind, n in self.n_tensors.items())
        text = (
            f"{self.quant}: {self.n_bytes / 2**20:.1f} MiB, {self.bpw:.2f} bits/weight, {tensors}"
        )
        if self.n_fallbacks:
            text += f"; {self.n_fallbacks} fell back (rows no multiple of {_K_WIDTH})"
        return text


def list_file(path: Path) -> Listing:
    """What a file holds. Raises ModelError if it is no model file."""
    header = check_gguf(path)
    n_weights = sum(math.prod(tensor.shape) for tensor in header.tensors)
    sizes = header.bytes_by_type()
    counts = Counter(tensor.type for tensor in header.tensors)
    in_blocks = header.quant.endswith(("_K", "_S", "_M", "_L", "_XS", "_XXS"))
    fallbacks = [
        tensor
        for tensor in header.tensors
        if len(tensor.shape) > 1 and tensor.shape[0] % _K_WIDTH and tensor.type != "F32"
    ]
    return Listing(
        path,
        header.quant,
        header.n_file_bytes,
        n_weights,
        8 * sum(sizes.values()) / n_weights,
        {kind: counts[kind] for kind in sorted(sizes, key=lambda kind: -sizes[kind])},
        len(fallbacks) if in_blocks else 0,
    )
