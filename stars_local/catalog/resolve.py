"""From what a person writes after `--model` to a file."""

from __future__ import annotations

import difflib
from pathlib import Path

from stars_local.catalog.folder import models_folder
from stars_local.catalog.known import DEFAULT_MODEL, KNOWN
from stars_local.core.errors import ModelError


def resolve(name_or_path: str | None) -> Path:
    """The file of a path, a known name, or a name in the models folder; None is the default.

    Only its existence is checked. Raises ModelError that says how to get it.
    """
    name = DEFAULT_MODEL if name_or_path is None else name_or_path
    folder = models_folder()
    as_path = Path(name).expanduser()
    if as_path.exists() or (name.endswith(".gguf") and as_path.parent != Path()):
        return as_path
    for candidate in (folder / name, folder / f"{name}.gguf"):
        if candidate.is_file():
            return candidate
    if name in KNOWN:
        raise ModelError(f"{name} is not here yet: run 'stars-local models pull {name}'")
    here = [path.stem for path in sorted(folder.glob("*.gguf"))] if folder.is_dir() else []
    close = difflib.get_close_matches(name.removesuffix(".gguf"), [*here, *KNOWN], 1)
    hint = f"did you mean {close[0]!r}?" if close else f"files are looked for in {folder}"
    raise ModelError(f"no model {name!r}: {hint}")
