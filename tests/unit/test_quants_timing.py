"""What a comparison says of memory and of time, against what models really do."""

from __future__ import annotations

from pathlib import Path

from stars_local.llama.engine import LlamaModel
from stars_local.llama.gguf_check import check_gguf
from stars_local.llama.memory import LOGIT_BYTES, kv_bytes_per_token, needed_bytes
from stars_local.llama.speed import prefill_rate
from tests.support.language_models import tiny_path


def test_memory_grows_with_each_of_its_parts() -> None:
    header = check_gguf(tiny_path("llama"))
    least = needed_bytes(header, 1000, 10, 1)
    per_token = kv_bytes_per_token(header)
    assert per_token is not None and per_token > 0
    assert needed_bytes(header, 2000, 10, 1) - least == 1000
    assert needed_bytes(header, 1000, 11, 1) - least == per_token
    assert needed_bytes(header, 1000, 10, 2) - least == header.n_vocab * LOGIT_BYTES


def test_a_cache_of_unknown_size_counts_as_nothing() -> None:
    header = check_gguf(tiny_path("mamba"))
    assert needed_bytes(header, 1000, 10, 1) == needed_bytes(header, 1000, 99, 1)


def test_a_prefill_never_asks_for_more_than_the_context_has() -> None:
    path: Path = tiny_path("llama")
    with LlamaModel(path, n_ctx=16, n_threads=1, n_seq_max=2) as model:
        assert prefill_rate(model, 10_000) > 0
