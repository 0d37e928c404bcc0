"""LoRA adapters: checking a file, trying it in the helper process, putting it over a model.

An adapter is tried together with its model: whether its tensors fit is known only there.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stars_local.core.errors import ModelError
from stars_local.llama.digest import file_sha256
from stars_local.llama.gguf_check import check_length, probe_in_child, read_metadata
from stars_local.llama.gguf_header import GgufHeader
from stars_local.llama.library import last_words, native


def check_lora(path: Path, model: GgufHeader) -> None:
    """Read an adapter's header and hold it against the model's.

    Raises ModelError if it is no GGUF, cut short, no LoRA adapter, or one of another
    architecture. One that passes may still be refused by llama.cpp: `probe_loras` finds out.
    """
    header = read_metadata(path)
    check_length(path, header)
    kinds = (header.values.get("general.type"), header.values.get("adapter.type"))
    if kinds != ("adapter", "lora") or not header.tensors:
        raise ModelError(
            f"{path} is not a LoRA adapter: give one in GGUF, as convert_lora_to_gguf.py writes it"
        )
    if header.architecture != model.architecture:
        raise ModelError(
            f"{path} is a LoRA adapter of a {header.architecture or 'nameless'} model, this one "
            f"is {model.architecture}: give the model that it was trained on"
        )


def probe_loras(path: Path, loras: Mapping[str, float]) -> None:
    """Make sure that llama.cpp can decode with the adapters over a model that was probed."""
    for lora in loras:
        probe_in_child(path, lora=Path(lora))


def add_loras(model: Any, context: Any, path: Path, loras: Mapping[str, float]) -> str:
    """Put adapters, by file and scale, over a native model's context.

    They are freed together with the model. Returns their digests and scales as JSON. Raises
    ModelError where llama.cpp refuses one.
    """
    if not loras:
        return "{}"
    lib = native()
    handles = []
    for lora in loras:
        adapter = lib.llama_adapter_lora_init(model, os.fsencode(lora))
        if not adapter:
            raise ModelError(
                f"{lora}: not a LoRA adapter of {path.name} "
                f"({last_words() or 'no reason given'}): check the file"
            )
        handles.append(adapter)
    array = (lib.llama_adapter_lora_p_ctypes * len(handles))(*handles)
    scales = (ctypes.c_float * len(handles))(*loras.values())
    if lib.llama_set_adapters_lora(context, array, len(handles), scales) != 0:
        raise ModelError(f"{', '.join(loras)}: llama.cpp refused the adapters ({last_words()})")
    return json.dumps({file_sha256(Path(lora)): scale for lora, scale in sorted(loras.items())})
