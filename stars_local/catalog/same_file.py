"""Before a model is opened: is its file still the one that came into the models folder?"""

from __future__ import annotations

from pathlib import Path

from stars_local.catalog.folder import models_folder
from stars_local.catalog.manifests import manifest_of
from stars_local.core.errors import ModelError
from stars_local.llama.digest import file_sha256
from stars_local.llama.gguf_check import part_paths


def the_file_that_came(path: Path, folder: Path | None = None) -> Path:
    """The path again; ModelError where a file of the models folder, or a part of it, is another
    than its manifest says. Files without a manifest, and those elsewhere, pass.

    Digests come from the user's cache while a file's size and times stay the same, so only a file
    that is new or was touched is read. folder: as `models_folder` takes it.
    """
    place = models_folder(folder).resolve()
    for part in part_paths(path):
        if part.parent.resolve() != place or not part.is_file():
            continue  # what is missing is named where the model is opened
        known = manifest_of(part.parent, part.name)
        if known is None:
            continue
        try:
            same = part.stat().st_size == known.size_bytes and file_sha256(part) == known.sha256
        except OSError as error:
            raise ModelError(f"{part} cannot be read: {error.strerror}") from error
        if not same:
            raise ModelError(
                f"{part} is not the file that came here: run 'stars-local models verify', then "
                "pull or import it again"
            )
    return path
