"""llama.cpp's own quantiser: one GGUF file into another type."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from stars_local.core.errors import ModelError, UsageError
from stars_local.llama.gguf_check import check_gguf
from stars_local.llama.library import forget_log, last_words, native


def quant_types() -> dict[str, int]:
    """The types that the quantiser writes, as GGUF spells them, with llama.cpp's numbers."""
    from gguf import LlamaFileType

    names = {}
    for kind in LlamaFileType:
        name = kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        if hasattr(native(), f"LLAMA_FTYPE_{kind.name}"):
            names[name] = int(kind)
    return names


def quantise(source: Path, target: Path, quant: str, *, n_threads: int = 0) -> None:
    """Write `source` as type `quant` to `target`; the file appears whole or not at all.

    A source that is quantised already goes through F32, with what it has lost. Raises UsageError
    for a type llama.cpp does not know, ModelError where it refuses.
    """
    types = quant_types()
    if quant not in types:
        raise UsageError(f"{quant!r} is no type that llama.cpp writes: use {', '.join(types)}")
    check_gguf(source)
    lib = native()
    params = lib.llama_model_quantize_default_params()
    params.ftype = types[quant]
    params.nthread = n_threads
    params.allow_requantize = True
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        forget_log()
        code = lib.llama_model_quantize(
            os.fsencode(source), os.fsencode(temporary), ctypes.byref(params)
        )
        if code != 0:
            raise ModelError(
                f"{source}: llama.cpp cannot write it as {quant} ({last_words() or f'code {code}'})"
            )
        temporary.replace(target)
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
