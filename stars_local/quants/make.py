"""Files of several types from one source: made once, kept while their manifests match."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stars_local.core import files
from stars_local.core.errors import ModelError, UsageError
from stars_local.core.progress import OnProgress
from stars_local.llama.gguf_check import check_gguf
from stars_local.llama.gguf_header import GgufHeader
from stars_local.llama.library import build
from stars_local.llama.quantise import check_type, quantise_into
from stars_local.quants.listing import FLOATS, Listing, list_file

SCHEMA = 1
SPARE_BYTES = 16 << 20  # a disk filled to the last byte troubles others
_BITS = {"F32": 32.0, "F16": 16.0, "BF16": 16.0}
_MOST_QUANT_BITS = 10.0  # Q8_0 has 8.5; norms and biases stay F32


@dataclass(frozen=True, slots=True)
class Made:
    """A file of a type. kept: it was there already, and its manifest matches."""

    listing: Listing
    kept: bool


def parse_types(text: str) -> tuple[str, ...]:
    """Read `Q8_0,Q6_K,...`. Raises UsageError, with the types that llama.cpp knows."""
    types = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not types:
        raise UsageError(f"types {text!r}: give some, for example Q8_0,Q4_K_M")
    for each in types:
        check_type(each)
    return types


def target_of(source: Path, out: Path, quant: str) -> Path:
    """Where a type of a source is written: the source's name, its own type left out."""
    stem = source.stem
    own = check_gguf(source).quant
    return out / f"{stem.removesuffix(own).rstrip('.-_') or stem}.{quant}.gguf"


def is_quantised(header: GgufHeader) -> bool:
    """Whether weights were lost already: some tensor is of a type that holds no floats."""
    return any(kind not in FLOATS for kind in header.bytes_by_type())


def make(
    source: Path,
    types: Sequence[str],
    out: Path,
    *,
    imatrix: Path | None = None,
    n_threads: int = 0,
    on_progress: OnProgress,
) -> Iterator[Made]:
    """Write each type that is missing to `out`; yields each file when it is there.

    A source that is quantised goes through one F16 file, so that all types come from the same
    numbers. Raises UsageError for a split source, or a file of another origin in the way;
    ModelError where the disk has no room, or llama.cpp refuses.
    """
    header = check_gguf(source)
    if header.integer("split.count") > 1:
        raise UsageError(
            f"{source} is one of {header.integer('split.count')} parts: "
            "join them with 'llama-gguf-split --merge' first"
        )
    origin = {
        "schema": SCHEMA,
        "source_sha256": files.sha256_of(source),
        "imatrix_sha256": None if imatrix is None else files.sha256_of(imatrix),
        "build": build(),
    }
    targets = {quant: target_of(source, out, quant) for quant in types}
    missing = []
    for quant, target in targets.items():
        if target.resolve() == source.resolve():
            raise UsageError(f"{target} is the source itself: give another --out")
        if not _is_kept(target, {**origin, "quant": quant}):
            missing.append(quant)
    through = ["F16"] if missing and is_quantised(header) else []
    _need_room(out, header, [*missing, *through])
    with contextlib.ExitStack() as stack:
        begin = None
        for quant, target in targets.items():
            if quant in missing:
                if begin is None:
                    begin = stack.enter_context(_floats(source, out, n_threads, on_progress))
                _make_one(
                    begin,
                    target,
                    quant,
                    {**origin, "quant": quant},
                    imatrix,
                    n_threads,
                    on_progress,
                )
            yield Made(list_file(target), quant not in missing)


@contextlib.contextmanager
def _floats(source: Path, out: Path, n_threads: int, on_progress: OnProgress) -> Iterator[Path]:
    """The source itself, or for a quantised one its F16 for the time of the block."""
    if not is_quantised(check_gguf(source)):
        yield source
        return
    with files.scratch_file(out / f"{source.stem}.F16") as (middle, _):
        quantise_into(
            source,
            middle,
            "F16",
            n_threads=n_threads,
            on_progress=lambda done, total: on_progress("to F16", done, total),
        )
        yield middle


def _make_one(
    source: Path,
    target: Path,
    quant: str,
    origin: dict[str, Any],
    imatrix: Path | None,
    n_threads: int,
    on_progress: OnProgress,
) -> None:
    try:
        with files.appearing_by_name(target) as made:
            quantise_into(
                source,
                made,
                quant,
                n_threads=n_threads,
                imatrix=imatrix,
                on_progress=lambda done, total: on_progress(quant, done, total),
            )
            manifest = {
                **origin,
                "sha256": files.sha256_of(made),
                "size_bytes": made.stat().st_size,
            }
            # before the file: one without a manifest would pass for somebody else's
            text = json.dumps(manifest, indent=1).encode() + b"\n"
            files.write_atomically(manifest_of(target), text)
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {error}") from error


def manifest_of(target: Path) -> Path:
    """The file beside a made file that says what it was made of."""
    return target.with_name(f"{target.name}.quant.json")


def _is_kept(target: Path, origin: dict[str, Any]) -> bool:
    """Whether a file is there, of this origin, and whole. UsageError for one that is neither
    ours nor this one's."""
    if not target.exists():
        return False
    place = manifest_of(target)
    if not place.exists():
        raise UsageError(
            f"{target} is there, and was not made by this command: move it, or give another --out"
        )
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{place}: cannot be read: {error}: remove it and {target}") from error
    if not isinstance(found, dict) or any(found.get(key) != origin[key] for key in origin):
        return False
    return bool(found.get("sha256") == files.sha256_of(target))


def _need_room(out: Path, header: GgufHeader, types: Sequence[str]) -> None:
    """ModelError where the disk cannot hold these types of a model."""
    n_weights = sum(math.prod(tensor.shape) for tensor in header.tensors)
    bits = sum(_BITS.get(quant, _MOST_QUANT_BITS) for quant in types)
    n_bytes = int(n_weights * bits / 8) + len(types) * (8 << 20) + SPARE_BYTES
    try:
        out.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free
    except OSError as error:
        raise ModelError(f"{out}: cannot be written: {error}: give another --out") from error
    if types and free < n_bytes:
        raise ModelError(
            f"{out} has {free >> 20} MiB free, {len(types)} files need up to {n_bytes >> 20} MiB: "
            "make room, or give another --out"
        )
