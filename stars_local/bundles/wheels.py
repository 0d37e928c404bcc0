"""The wheels of a bundle: where they come from, whom they fit, and what their licences are."""

from __future__ import annotations

import zlib
from email.parser import HeaderParser
from importlib.metadata import version
from lzma import LZMAError
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile

from stars_local.catalog.pip import run_pip
from stars_local.core.errors import DataError

CHECKOUT = Path(__file__).resolve().parents[2]
_MAX_METADATA_BYTES = 1 << 20
# RuntimeError: a member is encrypted; NotImplementedError: packed in a way that zipfile lacks
_NOT_A_WHEEL = (OSError, EOFError, ValueError, IndexError, RuntimeError, BadZipFile)


def gather_wheels(scratch: Path, into: IO[str]) -> Path:
    """A folder within `scratch` with the wheels of this version and of all it needs, for this
    machine's platform and Python.

    From the checkout that runs, else by this version's number from where pip looks. into: where
    pip says what it does. Raises DataError, or NetworkError where there is no pip.
    """
    found, own = scratch / "wheels", scratch / "pip"
    for folder in (found, own):
        folder.mkdir()
    here = (CHECKOUT / "pyproject.toml").is_file()
    what = str(CHECKOUT) if here else f"stars-local=={version('stars-local')}"
    done = run_pip(["wheel", "--wheel-dir", str(found), what], own, into=into)
    if done.returncode != 0:
        raise DataError("pip could not gather the wheels; what it said is above")
    return found


def wheel_licence(path: Path) -> str | None:
    """What a wheel's metadata says of its licence; DataError for a file that is no wheel."""
    if path.exists() and not path.is_file():  # a pipe would hang
        raise DataError(f"{path}: not a wheel: a folder, a pipe or a device")
    try:
        with ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
            with archive.open(names[0]) as file:
                text = file.read(_MAX_METADATA_BYTES).decode("utf-8", "replace")
    except (*_NOT_A_WHEEL, LZMAError, zlib.error) as error:
        raise DataError(f"{path}: not a wheel: {error}") from error
    fields = HeaderParser().parsestr(text)
    said = str(fields.get("License-Expression") or fields.get("License") or "").split("\n")
    lines = [line for line in said if line.strip()]
    if lines:
        return lines[0].strip()
    kinds = [line.rsplit("::", 1)[-1].strip() for line in fields.get_all("Classifier", [])
             if line.startswith("License ::")]  # fmt: skip
    return " and ".join(kinds) or None
