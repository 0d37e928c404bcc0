"""From what a person writes after `--model` to a file."""

from __future__ import annotations

import difflib
from pathlib import Path

from stars_local.catalog.folder import models_folder
from stars_local.catalog.known import DEFAULT_MODEL, KNOWN
from stars_local.core.errors import ModelError

_MAX_SHOWN = 200


def resolve(name_or_path: str | None, folder: Path | None = None) -> Path:
    """The file of a path, a known name, or a name in the models folder; None is the default.

    Split models are named by their first part, or by the name without `-00001-of-…`, which the
    name of a file goes before. Only the file's existence is checked. Raises ModelError that says
    how to get it, or which files may be meant.
    """
    name = DEFAULT_MODEL if name_or_path is None else name_or_path
    place = models_folder(folder)
    try:
        as_path = Path(name).expanduser()
        if as_path.exists() or (name.endswith(".gguf") and as_path.parent != Path()):
            return as_path
    except (OSError, RuntimeError, ValueError) as error:  # too long, or a home of nobody
        why = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"no model {name[:_MAX_SHOWN]!r}: {why}") from error
    here = sorted(place.glob("*.gguf")) if place.is_dir() else []
    known = KNOWN[name].file_name if name in KNOWN else name
    for found in (
        [path for path in here if path.name == known],
        [path for path in here if path.stem == known],
        [path for path in here if _without_part(path) == known],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            names = " or ".join(path.name for path in found)
            raise ModelError(f"{name!r} may be {names}: give the whole name")
    if name in KNOWN:
        raise ModelError(f"{name} is not here yet: run 'stars-local models pull {name}'")
    stems = [path.stem for path in here]
    close = difflib.get_close_matches(name.removesuffix(".gguf"), [*stems, *KNOWN], 1)
    hint = f"did you mean {close[0]!r}?" if close else f"files are looked for in {place}"
    raise ModelError(f"no model {name[:_MAX_SHOWN]!r}: {hint}")


def _without_part(path: Path) -> str | None:
    """The name of the split model whose first part a file is, None for other files."""
    stem, _, n_parts = path.stem.rpartition("-00001-of-")
    return stem if n_parts.isdecimal() else None
