"""Jobs of the helper process that enter llama.cpp: trying a model file, parsing a grammar."""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stars_local.llama.refusal import Refusal

_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR
_PROBE_CONTEXT = 32


@contextmanager
def _errors_logged() -> Iterator[list[str]]:
    """What llama.cpp logs as errors while the block runs."""
    import llama_cpp

    errors: list[str] = []

    def keep(level: int, text: bytes, _user_data: object) -> None:
        if level == _ERROR_LEVEL:
            errors.append(text.decode(errors="replace").strip())

    callback = llama_cpp.llama_log_callback(keep)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    _CALLBACKS[:] = [callback]
    yield errors


_CALLBACKS: list[Any] = []  # the one registered: llama.cpp may call it at any time


def _reason(errors: list[str], otherwise: str) -> str:
    """The first of llama.cpp's errors, which names the cause, without who says it."""
    if not errors:
        return otherwise
    return re.sub(r"^(\w+: |error loading model[^:]*: )+", "", errors[0])


def probe(path: str, lora: str | None = None) -> dict[str, Any]:
    """Load a model file, decode two tokens with it, and say what it is; with an adapter over it
    where one is given."""
    import llama_cpp

    with _errors_logged() as errors:
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), model_params)
        if not model:
            raise Refusal(_reason(errors, "it cannot be loaded"))
        try:
            adapter = None if lora is None else _load_lora(llama_cpp, model, lora, errors)
            return _decode_once(llama_cpp, model, adapter, errors)
        finally:
            llama_cpp.llama_model_free(model)


def _load_lora(llama_cpp: Any, model: Any, path: str, errors: list[str]) -> Any:
    adapter = llama_cpp.llama_adapter_lora_init(model, os.fsencode(path))
    if not adapter:
        raise Refusal(_reason(errors, "it cannot be put over this model"))
    if llama_cpp.llama_adapter_get_alora_n_invocation_tokens(adapter) > 0:
        raise Refusal("it is an activated LoRA, which works after certain tokens only")
    return adapter


def _decode_once(llama_cpp: Any, model: Any, adapter: Any, errors: list[str]) -> dict[str, Any]:
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    if n_vocab < 2:
        raise Refusal("it has no vocabulary")
    if llama_cpp.llama_model_has_encoder(model) or not llama_cpp.llama_model_has_decoder(model):
        raise Refusal("it is an encoder, which cannot continue a text", "encoder")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _PROBE_CONTEXT
    params.n_threads = params.n_threads_batch = min(4, os.cpu_count() or 1)
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise Refusal(_reason(errors, "no context can be made for it"))
    try:
        if adapter is not None and llama_cpp.llama_set_adapter_lora(context, adapter, 1.0) != 0:
            raise Refusal(_reason(errors, "it cannot be put over this model"))
        tokens = (llama_cpp.llama_token * 2)(0, 1)
        code = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, 2))
        if code != 0:
            raise Refusal(_reason(errors, f"decoding fails with code {code}"))
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        if not logits:
            raise Refusal("it gives no logits")
        if not all(map(math.isfinite, logits[:n_vocab])):
            raise Refusal("its logits are not finite numbers: the weights are damaged")
    finally:
        llama_cpp.llama_free(context)
    return {"n_vocab": n_vocab}


def parse_grammar(gbnf: str) -> None:
    """Let llama.cpp parse a grammar, without any vocabulary."""
    import llama_cpp

    with _errors_logged() as errors:
        sampler = llama_cpp.llama_sampler_init_grammar(None, gbnf.encode(), b"root")
    if not sampler:
        os.lseek(2, 0, os.SEEK_SET)
        printed = os.read(2, 65536).decode(errors="replace")
        found = re.search(r"error parsing grammar: ([^\n]*)", printed)
        reason = found[1] if found else _reason(errors, "it cannot be parsed")
        raise Refusal(reason[:200])
    llama_cpp.llama_sampler_free(sampler)


def convert_schema(schema: str) -> str:
    """A JSON schema as a grammar. References to other documents are refused."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        return str(json_schema_to_gbnf(schema))
    except (AssertionError, ValueError) as error:
        raise Refusal(str(error)) from error
