"""What memory a model will take, and whether this machine has it, before anything is loaded."""

from __future__ import annotations

import contextlib
from pathlib import Path

from stars_local.core.errors import ModelError
from stars_local.llama.gguf_header import GgufHeader

LOGIT_BYTES = 4
_KV_VALUE_BYTES = 2  # llama.cpp keeps keys and values as F16
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")


def kv_bytes_per_token(header: GgufHeader) -> int | None:
    """Bytes of keys and values a token: layers x key and value heads x their lengths x 2.

    The branches of an answer share one cache, so the width does not multiply it. None where
    the header does not give one number for all layers.
    """
    arch = header.architecture
    n_layer = header.integer(f"{arch}.block_count")
    n_head = header.integer(f"{arch}.attention.head_count")
    if f"{arch}.attention.head_count_kv" in header.array_lengths:
        return None
    if n_layer < 1 or n_head < 1 or any(".ssm." in key for key in header.values):
        return None
    kv_key = f"{arch}.attention.head_count_kv"
    n_head_kv = header.integer(kv_key) if kv_key in header.values else n_head
    length = header.integer(f"{arch}.embedding_length") // n_head
    keys = header.integer(f"{arch}.attention.key_length")
    values = header.integer(f"{arch}.attention.value_length")
    both = (keys if keys > 0 else length) + (values if values > 0 else length)
    return n_layer * n_head_kv * both * _KV_VALUE_BYTES


def available_bytes() -> int | None:
    """Memory that a new process could take without swapping, caches given up; None if unknown.

    The limit of the control group that a container runs in counts too.
    """
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text("ascii").splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) << 10)
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        limit = int((_CGROUP / "memory.max").read_text("ascii"))
        found.append(limit - int((_CGROUP / "memory.current").read_text("ascii")))
    return min(found, default=None)


def anonymous_bytes() -> int | None:
    """Memory of this process that no file backs, so without mapped models; None where the
    system does not tell."""
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return None


def needed_bytes(header: GgufHeader, n_file_bytes: int, n_cells: int, width: int) -> int:
    """What a model takes: its weights, a cache of `n_cells` tokens, `width` rows of logits.

    An estimate from below; the cache counts as nothing where `kv_bytes_per_token` is unknown.
    """
    per_token = kv_bytes_per_token(header)
    kv_bytes = 0 if per_token is None else per_token * n_cells
    return n_file_bytes + kv_bytes + width * header.n_vocab * LOGIT_BYTES


def need_memory(
    path: Path, header: GgufHeader, n_file_bytes: int, n_cells: int, width: int
) -> None:
    """Refuse, with the numbers, a model and a cache that cannot fit the memory there is.

    n_cells: tokens that the cache holds; width: rows of logits. An estimate from below, without
    what llama.cpp computes in: what passes may still fail to load. Raises ModelError.
    """
    available = available_bytes()
    if available is None:
        return
    needed = needed_bytes(header, n_file_bytes, n_cells, width)
    if needed > available:
        logits = width * header.n_vocab * LOGIT_BYTES
        kv_bytes = needed - n_file_bytes - logits
        raise ModelError(
            f"{path} needs about {needed >> 20} MiB ({n_file_bytes >> 20} for the weights, "
            f"{kv_bytes >> 20} for {n_cells} tokens of context, {logits >> 20} for {width} rows "
            f"of logits), {available >> 20} MiB are free: lower --n-ctx or --width, close other "
            "programs, or use a smaller quantisation"
        )


def width_that_fits(
    header: GgufHeader, n_file_bytes: int, n_cells: int, width: int, least: int
) -> int:
    """`width` rows of logits, halved until they fit beside weights and cache, down to `least`.

    It stays as it is where memory is unknown, or where not even the least would help.
    """
    available = available_bytes()
    if available is None or needed_bytes(header, n_file_bytes, n_cells, least) > available:
        return width
    while width > least and needed_bytes(header, n_file_bytes, n_cells, width) > available:
        width = max(least, width // 2)
    return width
