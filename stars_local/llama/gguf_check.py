"""Decides whether a model file may be handed to llama.cpp.

Two steps: `check_gguf` reads the header in pure Python and names the usual troubles;
`probe_in_child` loads the file in a helper process and decodes with it, so that a file which
kills native code kills that process. Files that passed are remembered, by content if small,
else by place, size and times of change, and for one version of llama-cpp-python.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import stat
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from stars_local.core.errors import ModelError
from stars_local.core.files import write_atomically
from stars_local.llama import disk_cache
from stars_local.llama.child import MIB, Child, ChildDied, ChildRefused
from stars_local.llama.digest import file_stamp
from stars_local.llama.gguf_header import MAGIC, GgufHeader, read_header

_SPLIT_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_NO_LANGUAGE_MODEL = {
    "adapter": "a LoRA adapter",
    "mmproj": "a multimodal projector",
    "imatrix": "an importance matrix",
    "vocab": "a vocabulary without weights",
}
_HASHED_BYTES = 16 * MIB  # smaller files are known by their content: hashing takes 10 ms
_PROBE_BASE_S = 60.0
_PROBE_BYTES_A_SECOND = 25e6  # a slow disk; a decode touches every weight
_PROBE_SPARE_BYTES = 4096 * MIB


def check_gguf(path: Path) -> GgufHeader:
    """Read a model file's header and check it, and its other parts if it is split.

    Raises ModelError if it is missing, unreadable, no GGUF, of an unknown version, damaged,
    cut short, incomplete, or no language model that can continue a text. Files that pass may
    still be refused by llama.cpp: `probe_in_child` finds out.
    """
    header = read_metadata(path)
    check_length(path, header)
    kind = header.values.get("general.type")
    if isinstance(kind, str) and kind in _NO_LANGUAGE_MODEL:
        raise ModelError(
            f"{path} holds {_NO_LANGUAGE_MODEL[kind]}, not a language model: "
            "give the model's own file"
        )
    if not header.architecture:
        raise ModelError(
            f"{path} names no architecture (general.architecture): give a language model's file"
        )
    if header.values.get(f"{header.architecture}.attention.causal") is False:
        raise ModelError(
            f"{path} is an embedding model ({header.architecture}), which cannot continue a "
            "text: give a language model's file"
        )
    if header.integer("split.count") > 1:
        _check_parts(path, header)
    elif not header.tensors:
        raise ModelError(f"{path} holds a vocabulary only, no weights: give the model's own file")
    return header


def read_metadata(path: Path) -> GgufHeader:
    """The header of a GGUF file, of whatever kind. Raises ModelError if it cannot be read."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{path} is a directory: give the GGUF file itself")
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path} is not a regular file: give a GGUF file")
        if status.st_size == 0:
            raise ModelError(f"{path} is empty: fetch the file again")
        with path.open("rb") as file:
            magic = file.read(4)
            if magic != MAGIC:
                raise ModelError(f"{path} is {_looks_like(magic + file.read(508))}, not GGUF")
            return read_header(path, file, status.st_size)
    except FileNotFoundError:
        raise ModelError(
            f"{path} does not exist: check the path, or fetch a model with "
            "`stars-local models pull`"
        ) from None
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}): check the path and its permissions"
        ) from None
    except ValueError as error:  # a NUL in the name
        raise ModelError(f"{str(path)!r} is no path of a file ({error})") from None


def _looks_like(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (fetch the file itself with `git lfs pull`)"
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page (fetch the file itself, not its page)"
    if start.startswith((b"lmgg", b"fmgg", b"tjgg", b"algg")):
        return "a GGML file from before GGUF (fetch a newer conversion)"
    if start[:4] == MAGIC[::-1]:
        return "a GGUF file with its bytes swapped (fetch a little-endian one)"
    if b"\0" not in start and len(start.decode("utf-8", "replace").rstrip("\ufffd")) > 0:
        text = start.decode("utf-8", "replace").rstrip("\ufffd")
        if "\ufffd" not in text and all(c.isprintable() or c in "\t\r\n\f" for c in text):
            return "a text file"
    return f"a file that begins with the bytes {start[:4].hex(' ')}"


def check_length(path: Path, header: GgufHeader) -> None:
    """Raises ModelError if a file is shorter than its header says."""
    if header.n_needed_bytes > header.n_file_bytes:
        raise ModelError(
            f"{path} is cut short: it has {header.n_file_bytes} bytes of "
            f"{header.n_needed_bytes}: fetch the file again"
        )


def _check_parts(path: Path, header: GgufHeader) -> None:
    n_parts = header.integer("split.count")
    match = _SPLIT_NAME.fullmatch(path.name)
    if match is None or int(match[3]) != n_parts:
        raise ModelError(
            f"{path} is one of {n_parts} parts of a model: name them "
            f"NAME-00001-of-{n_parts:05d}.gguf and so on"
        )
    first, *others = part_paths(path)
    if path.name != first.name:
        raise ModelError(
            f"{path} is part {int(match[2])} of {n_parts} of a model: give the first, {first.name}"
        )
    missing = [part.name for part in others if not part.exists()]
    if missing:
        raise ModelError(
            f"{path} is the first of {n_parts} parts, and {len(missing)} of them are missing "
            f"({', '.join(missing[:3])}): put all parts into one folder"
        )
    for part in others:
        check_length(part, read_metadata(part))


def part_paths(path: Path) -> list[Path]:
    """All parts of a split model in order; the file itself if it is no part."""
    match = _SPLIT_NAME.fullmatch(path.name)
    if match is None:
        return [path]
    stem, total = match[1], match[3]
    return [path.with_name(f"{stem}-{i + 1:05d}-of-{total}.gguf") for i in range(int(total))]


def probe_in_child(
    path: Path,
    timeout_s: float | None = None,
    *,
    cache_folder: Path | None = None,
    lora: Path | None = None,
) -> None:
    """Make sure that llama.cpp can load a checked file and decode with it.

    timeout_s: > 0; without it a minute and what a slow disk needs for the file. cache_folder
    remembers files that passed (the user's cache folder by default); one that cannot be
    written to only costs the time of the next probe. lora: an adapter to put over the model, which
    is to blame for what fails then. Raises ModelError.
    """
    parts = [part for part in part_paths(path) if part.exists()]
    parts += [] if lora is None else [lora]
    n_bytes = sum(part.stat().st_size for part in parts)
    folder = disk_cache.cache_folder() / "probed" if cache_folder is None else cache_folder
    entry = folder / f"{_fingerprint(parts)}.json"
    if entry.exists():
        return
    limit_s = _PROBE_BASE_S + n_bytes / _PROBE_BYTES_A_SECOND if timeout_s is None else timeout_s
    with closing(Child()) as child:
        probe_with(child, path, limit_s, n_bytes, lora)
    _remember(entry, path)


def probe_with(
    child: Child, path: Path, limit_s: float, n_file_bytes: int, lora: Path | None = None
) -> None:
    """Probe a file in a given helper process; see `probe_in_child`."""
    n_bytes = 2 * n_file_bytes + _PROBE_SPARE_BYTES
    request = {"path": str(path.resolve())}
    if lora is not None:
        request["lora"] = str(lora.resolve())
    tried = path if lora is None else lora
    try:
        child.ask("probe", request, limit_s=limit_s, n_bytes=n_bytes)
    except ChildDied as error:
        raise ModelError(
            f"{tried} makes llama.cpp fail: the process that tried it {error}: "
            "fetch the file again, or another one"
        ) from None
    except ChildRefused as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{tried} is refused by llama.cpp: {reason}: fetch the file again, or another one"
        ) from None


def _fingerprint(parts: list[Path]) -> str:
    digest = hashlib.blake2b(version("llama-cpp-python").encode(), digest_size=20)
    for part in parts:
        status = part.stat()
        if status.st_size <= _HASHED_BYTES:
            digest.update(hashlib.blake2b(part.read_bytes()).digest())
        else:
            named = (str(part.resolve()), *file_stamp(part))
            digest.update(json.dumps(named).encode())
    return digest.hexdigest()


def _remember(entry: Path, path: Path) -> None:
    content = json.dumps({"path": str(path.resolve())}) + "\n"
    with contextlib.suppress(OSError):  # the cache saves time only
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(entry, content.encode(), private=True)
