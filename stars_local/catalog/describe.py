"""What a model file says of itself, and what memory it will take."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from stars_local.catalog.sources import part_names
from stars_local.llama.gguf_check import check_gguf, read_metadata
from stars_local.llama.gguf_header import Scalar
from stars_local.llama.memory import LOGIT_BYTES, kv_bytes_per_token

DEFAULT_MAX_N_CTX = 4096


@dataclass(frozen=True, slots=True)
class TensorType:
    """How many tensors, and bytes of them, a file has of one type."""

    type: str
    n_tensors: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Estimated bytes at n_ctx tokens of context and `width` attempts at once.

    kv_bytes is None where the model has recurrent layers, or a number of heads that differs
    from layer to layer. llama.cpp's working buffers come on top.
    """

    n_ctx: int
    width: int
    weights_bytes: int
    kv_bytes: int | None
    logits_bytes: int

    @property
    def total_bytes(self) -> int | None:
        """The sum, None where a part of it is unknown."""
        if self.kv_bytes is None:
            return None
        return self.weights_bytes + self.kv_bytes + self.logits_bytes


@dataclass(frozen=True, slots=True)
class Description:
    """metadata: the scalar values by key; array_lengths: the number of items of the others."""

    path: Path
    n_files: int
    size_bytes: int
    architecture: str
    name: str
    quant: str
    n_ctx_train: int
    n_vocab: int
    chat_template: str | None
    tensor_types: tuple[TensorType, ...]
    memory: Memory
    metadata: dict[str, Scalar]
    array_lengths: dict[str, int]


def describe(path: Path, *, n_ctx: int = 0, width: int = 8) -> Description:
    """Read the headers of a model's files. n_ctx 0 is the default: the trained context up to
    4096. Raises ModelError where one cannot be a model's."""
    header = check_gguf(path)
    files = [path]
    headers = [header]
    if header.integer("split.count") > 1:
        files = [path.with_name(name) for name in part_names(path.name)]
        headers += [read_metadata(part) for part in files[1:]]
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for part in headers:
        for tensor in part.tensors:
            counts[tensor.type] += 1
            sizes[tensor.type] += tensor.n_bytes
    n_tokens = n_ctx if n_ctx > 0 else min(header.n_ctx_train, DEFAULT_MAX_N_CTX)
    per_token = kv_bytes_per_token(header)
    return Description(
        path=path,
        n_files=len(files),
        size_bytes=sum(part.n_file_bytes for part in headers),
        architecture=header.architecture,
        name=header.name,
        quant=header.quant,
        n_ctx_train=header.n_ctx_train,
        n_vocab=header.n_vocab,
        chat_template=header.chat_template,
        tensor_types=tuple(
            TensorType(kind, counts[kind], n_bytes) for kind, n_bytes in sizes.most_common()
        ),
        memory=Memory(
            n_tokens,
            width,
            sum(sizes.values()),
            None if per_token is None else per_token * n_tokens,
            width * header.n_vocab * LOGIT_BYTES,
        ),
        metadata=dict(header.values),
        array_lengths=dict(header.array_lengths),
    )
