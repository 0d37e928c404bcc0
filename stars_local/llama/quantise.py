"""llama.cpp's own quantiser: one GGUF file into another type, in a process of its own.

Native code that meets a damaged file may end its process; the caller only sees a ModelError.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from stars_local.core.children import child_command, child_environment, lifeline
from stars_local.core.errors import ModelError, UsageError
from stars_local.core.files import appearing_by_name
from stars_local.llama.gguf_check import check_gguf
from stars_local.llama.library import native

OnTensors = Callable[[int, int], None]
_PROGRAM = "from stars_local.llama.quantise_main import main; main()"
_TENSOR = re.compile(rb"\[\s*(\d+)/\s*(\d+)\]")  # how llama.cpp counts the tensors in its log
_MAX_LAST_WORDS = 300


def quant_types() -> dict[str, int]:
    """The types that the quantiser writes, as GGUF spells them, with llama.cpp's numbers."""
    from gguf import LlamaFileType

    names = {}
    for kind in LlamaFileType:
        name = kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        if kind is not LlamaFileType.GUESSED and hasattr(native(), f"LLAMA_FTYPE_{kind.name}"):
            names[name] = int(kind)
    return names


def check_type(quant: str) -> int:
    """llama.cpp's number of a type; UsageError that lists them all where there is none."""
    types = quant_types()
    if quant not in types:
        raise UsageError(f"{quant!r} is no type that llama.cpp writes: use {', '.join(types)}")
    return types[quant]


def quantise(source: Path, target: Path, quant: str, *, n_threads: int = 0) -> None:
    """Write `source` as type `quant` to `target`; the file appears whole or not at all.

    A source that is quantised already goes through F32, with what it has lost. Raises UsageError
    for a type llama.cpp does not know, ModelError where it refuses or dies.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with appearing_by_name(target) as name:
            quantise_into(source, name, quant, n_threads=n_threads)
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {error}") from error


def quantise_into(
    source: Path,
    file: Path,
    quant: str,
    *,
    n_threads: int = 0,
    imatrix: Path | None = None,
    on_progress: OnTensors | None = None,
) -> None:
    """As `quantise`, straight into a file, which is half written where this fails.

    imatrix: an importance matrix as GGUF. on_progress: told (tensors done, all tensors).
    """
    number = check_type(quant)
    check_gguf(source)
    order = {
        "source": str(source.resolve()),
        "target": str(file.absolute()),
        "ftype": number,
        "n_threads": n_threads,
        "imatrix": None if imatrix is None else str(imatrix.resolve()),
    }
    _run(order, source, quant, on_progress)


def _run(order: dict[str, object], source: Path, quant: str, on_progress: OnTensors | None) -> None:
    with (
        tempfile.TemporaryFile() as said,
        lifeline() as held,
        subprocess.Popen(
            child_command(_PROGRAM, json.dumps(order)),
            stdin=held,
            stdout=subprocess.PIPE,
            stderr=said,
            env=child_environment(gpu=False),  # quantising is done on the CPU
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                found = _TENSOR.search(line)
                if found is not None and on_progress is not None:
                    on_progress(int(found[1]), int(found[2]))
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        said.seek(0)
        words = " ".join(said.read(1 << 16).decode("utf-8", "replace").split())
    if code != 0:
        how = f"died of signal {-code}" if code < 0 else "refused"
        raise ModelError(
            f"{source}: llama.cpp cannot write it as {quant} "
            f"({how}: {words[:_MAX_LAST_WORDS] or 'no reason given'})"
        )
