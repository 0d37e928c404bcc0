"""A model file and its context in native memory: loading, facts about it, freeing.

Everything that llama.cpp refuses becomes a ModelError that quotes what the library said.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stars_local.core.errors import ModelError
from stars_local.core.records import ModelInfo
from stars_local.llama.digest import file_stamp, model_sha256
from stars_local.llama.gguf_check import check_gguf, part_paths, probe_in_child
from stars_local.llama.gguf_header import GgufHeader
from stars_local.llama.library import build, forget_log, last_words, native
from stars_local.llama.limits import MAX_SEQUENCES
from stars_local.llama.lora import add_loras, check_lora, probe_loras
from stars_local.llama.memory import need_memory, width_that_fits
from stars_local.llama.tokens import Vocabulary

_UBATCH = 512
_SCORES = 1 << 28  # bytes that attention scores may take, which unfused attention keeps
_LEAST_HEAD = 64  # numbers of an attention head, as a rule or more
_N_SEQUENCES = 64
_MAX_DEFAULT_CTX = 4096
_N_RECURRENT = 17  # a trunk and 16 branches: a state may take 75 MB


@dataclass(frozen=True, slots=True)
class ContextParams:
    """Size and shape of a context.

    n_ctx: positions a sequence may have, 0 for the trained context up to 4096. n_seq_max: how
    many sequences (trunks and branches) may live at once, 2 to 256; 0 for 64, or 17 where every
    sequence reserves a recurrent state. n_threads: 0 for every
    usable core. n_gpu_layers: -1 for all. unified: one cache for all sequences; otherwise each
    has n_ctx cells of its own. loras: adapter files and their scales. n_seq_min: where the memory
    is not enough for the logits of n_seq_max sequences, it is halved down to this; 0 to refuse
    instead. fused: attention in one kernel ("flash attention"); None for what llama.cpp
    chooses on a GPU, and no on a CPU. n_outputs: rows of logits from one decode, 0 for one
    a sequence.
    """

    n_ctx: int = 0
    n_seq_max: int = 0
    n_threads: int = 0
    n_gpu_layers: int = -1
    unified: bool = True
    loras: Mapping[str, float] = field(default_factory=dict)
    n_seq_min: int = 0
    fused: bool | None = None
    n_outputs: int = 0

    def check(self) -> None:
        """ModelError unless a trunk and its branches fit."""
        n = self.n_seq_max
        if n != 0 and not 1 < n <= MAX_SEQUENCES:
            raise ModelError(
                f"n_seq_max is {n}: a trunk and its branches need 2 to {MAX_SEQUENCES}"
            )
        if self.n_ctx < 0:
            raise ModelError(
                f"n_ctx is {self.n_ctx}: give a number of tokens, or 0 for the default"
            )


class NativeModel:
    """Owns the native model, its LoRA adapters and one context; `close` frees all of them.

    attention: "unfused", "fused", or "chosen by llama.cpp". build: what computes, for whatever is
    kept of its results: library, attention, tokens at once, layers on a GPU.
    """

    def __init__(self, path: Path, params: ContextParams) -> None:
        self._model: Any = None
        self.context: Any = None
        self.adapters = "{}"  # digests and scales, as JSON
        self.path = path
        header = check_gguf(path)
        self._stamps = {part: file_stamp(part) for part in part_paths(path) if part.exists()}
        self.on_gpu = params.n_gpu_layers != 0 and bool(native().llama_supports_gpu_offload())
        if not self.on_gpu:
            params = self._fitting(header, params)
        for lora in params.loras:
            check_lora(Path(lora), header)
        probe_in_child(path)
        probe_loras(path, params.loras)
        try:
            self._load(params)
        except BaseException:
            self.close()
            raise

    def _fitting(self, header: GgufHeader, params: ContextParams) -> ContextParams:
        """With fewer sequences where that makes it fit, and may be; ModelError if model and
        context cannot fit. On a GPU the driver knows, not we."""
        n_ctx = params.n_ctx if params.n_ctx > 0 else min(header.n_ctx_train, _MAX_DEFAULT_CTX)
        n_seqs = params.n_seq_max if params.n_seq_max > 0 else _N_SEQUENCES
        n_bytes = sum(stamp[1] for stamp in self._stamps.values())
        if params.unified and params.n_seq_min > 0:
            narrowed = width_that_fits(header, n_bytes, n_ctx, n_seqs, params.n_seq_min)
            if narrowed < n_seqs:
                params, n_seqs = replace(params, n_seq_max=narrowed), narrowed
        n_cells = n_ctx if params.unified else n_ctx * n_seqs
        need_memory(self.path, header, n_bytes, n_cells, n_seqs)
        return params

    def _load(self, params: ContextParams) -> None:
        lib = native()
        forget_log()
        model_params = lib.llama_model_default_params()
        model_params.n_gpu_layers = params.n_gpu_layers
        self._model = lib.llama_model_load_from_file(os.fsencode(self.path), model_params)
        if not self._model:
            self._model = None
            raise ModelError(
                f"{self.path}: llama.cpp cannot load this file "
                f"({last_words() or 'no reason given'}): check the download"
            )
        self._check_kind()
        self.vocabulary = Vocabulary(lib.llama_model_get_vocab(self._model))
        self.is_recurrent = bool(lib.llama_model_is_recurrent(self._model))
        self.is_hybrid = bool(lib.llama_model_is_hybrid(self._model))
        self.n_swa: int = lib.llama_model_n_swa(self._model)
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self._model)
        self._open_context(params)
        self.memory: Any = lib.llama_get_memory(self.context)
        if not self.memory:
            raise ModelError(f"{self.path}: this model keeps no state between tokens: use another")
        self.adapters = add_loras(self._model, self.context, self.path, params.loras)
        self.info = self._describe()

    def _check_kind(self) -> None:
        lib = native()
        if lib.llama_model_has_encoder(self._model) or not lib.llama_model_has_decoder(self._model):
            raise ModelError(f"{self.path}: not a decoder-only language model: use another file")
        if lib.llama_model_is_diffusion(self._model):
            raise ModelError(f"{self.path}: a diffusion model draws no tokens in order")
        if lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model)) <= 0:
            raise ModelError(f"{self.path}: the file has no vocabulary: use another")

    def _open_context(self, params: ContextParams) -> None:
        lib = native()
        n_seq_max = params.n_seq_max
        if n_seq_max == 0:
            n_seq_max = _N_RECURRENT if self.is_recurrent or self.is_hybrid else _N_SEQUENCES
        n_ctx = params.n_ctx if params.n_ctx > 0 else min(self.n_ctx_train, _MAX_DEFAULT_CTX)
        n_threads = params.n_threads if params.n_threads > 0 else _usable_cores()
        wanted = lib.llama_context_default_params()
        wanted.n_ctx = n_ctx if params.unified else n_ctx * n_seq_max
        wanted.n_batch = wanted.n_ubatch = _UBATCH
        # on a CPU the fused kernel is slower, the more so the more branches share a step
        # (`bench --only attention`)
        fused = params.fused if params.fused is not None or self.on_gpu else False
        if fused is not None:
            wanted.flash_attn_type = int(fused)
        if fused is False:
            n_heads = lib.llama_model_n_head(self._model)  # 0 where the first layer has none
            n_heads = n_heads or lib.llama_model_n_embd(self._model) // _LEAST_HEAD
            wanted.n_ubatch = scored_at_once(n_heads, n_ctx, n_seq_max)
        self.attention = {True: "fused", False: "unfused", None: "chosen by llama.cpp"}[fused]
        self.build = (
            f"{build()} attention {self.attention}, {wanted.n_ubatch} tokens at once, "
            f"{params.n_gpu_layers if self.on_gpu else 0} layers on a GPU"
        )
        wanted.n_seq_max = n_seq_max
        # one row a sequence, not one a prompt token
        wanted.n_outputs_max = params.n_outputs if params.n_outputs > 0 else n_seq_max
        wanted.n_threads = wanted.n_threads_batch = n_threads
        wanted.kv_unified = params.unified
        # a window-sized cache never reclaims cells that live branches share
        wanted.swa_full = True
        wanted.no_perf = True
        self.context = lib.llama_init_from_model(self._model, wanted)
        if not self.context:
            self.context = None
            raise ModelError(
                f"{self.path}: no context of {wanted.n_ctx} tokens and {n_seq_max} "
                f"sequences ({last_words() or 'no reason given'}): lower --n-ctx or the width"
            )
        # llama.cpp rounds the cache up: what was asked for stays the limit of a sequence
        self.n_ctx = n_ctx
        self.n_cells: int = lib.llama_n_ctx(self.context)
        self.n_seq_max = n_seq_max
        self.unified = params.unified
        self.n_batch = min(_UBATCH, int(lib.llama_n_batch(self.context)))
        self.n_threads = n_threads

    def check_unchanged(self) -> None:
        """ModelError if the file was written to or cut while it is open: it is mapped, not read,
        so the model would decode with other weights, or die. One that took its place in the
        folder, or its removal, does no harm."""
        for part, before in self._stamps.items():
            try:
                now = file_stamp(part)
            except OSError:
                continue
            if now[0] == before[0] and now[1:3] != before[1:3]:
                raise ModelError(
                    f"{part} was changed while in use (it has {now[1]} bytes, {before[1]} when it "
                    "was loaded): put the whole file back and start again"
                )

    def metadata(self, key: str) -> str | None:
        """A metadata value of the file as text, None if it has no such key."""
        lib = native()
        room = 256
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = lib.llama_model_meta_val_str(self._model, key.encode(), buffer, room)
            if n < 0:
                return None
            if n < room:
                return buffer.value.decode("utf-8", "replace")
            room = n + 1

    @property
    def chat_template(self) -> str | None:
        """The model's own chat template (Jinja), None for a base model."""
        found: bytes | None = native().llama_model_chat_template(self._model, None)
        return None if not found else found.decode("utf-8", "replace")

    def _describe(self) -> ModelInfo:
        name = self.metadata("general.name")
        return ModelInfo(
            name=self.path.stem if name is None else name,
            path=str(self.path),
            sha256=model_sha256(part_paths(self.path)),
            quant=quant_name(self.metadata("general.file_type")),
            n_ctx=self.n_ctx,
            architecture=str(self.metadata("general.architecture")),
            n_vocab=self.vocabulary.n_tokens,
            adapters=self.adapters,
        )

    def close(self) -> None:
        """Free context, adapters and model; harmless when repeated."""
        lib = native()
        if self.context is not None:
            lib.llama_free(self.context)
            self.context = None
        if self._model is not None:
            lib.llama_model_free(self._model)
            self._model = None


def quant_name(file_type: str | None) -> str:
    """The quantisation as GGUF spells it, for example Q4_K_M; "unknown" where the file is mute."""
    from gguf import LlamaFileType

    if file_type is None or not file_type.isdigit():
        return "unknown"
    try:
        name: str = LlamaFileType(int(file_type)).name
    except ValueError:
        return f"file type {file_type}"
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")


def scored_at_once(n_heads: int, n_ctx: int, n_seq_max: int) -> int:
    """Tokens of one computation, at most 512, so that their scores of n_ctx others stay within
    256 MiB; as many as there are sequences at least, for a step takes a token of each."""
    n_tokens = _UBATCH
    while n_tokens // 2 >= n_seq_max and 4 * n_heads * n_ctx * n_tokens > _SCORES:
        n_tokens //= 2
    return n_tokens


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
