"""Wheels small enough to write by hand: a script, a few files, and what they need."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    scripts: Mapping[str, str] | None = None,
    needs: Sequence[str] = (),
) -> Path:
    """Write NAME-VERSION-py3-none-any.whl into `folder` and return its path.

    files: by their paths in the wheel. scripts: command names by `module:function`.
    needs: requirements as pip reads them.
    """
    about = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: MIT\n"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
    commands = "".join(f"{command} = {what}\n" for command, what in (scripts or {}).items())
    content = {
        **files,
        f"{about}/METADATA": metadata.encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{commands}".encode(),
    }
    record = "".join(f"{path},,\n" for path in (*content, f"{about}/RECORD"))
    out = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(out, "w") as archive:
        for path, data in {**content, f"{about}/RECORD": record.encode()}.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return out
