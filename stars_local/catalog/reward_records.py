"""What the files of a reward model must hash to; one small JSON file a model that was installed.

A reward model's own `reward.json` names the hashes of its network and its tokenizer, and nobody
names that of `reward.json` itself, of the golden scores and of the card.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from stars_local.catalog.manifests import FOLDER, is_sha256, read_object
from stars_local.core.errors import ModelError
from stars_local.core.files import write_atomically

SCHEMA = 1
_SUFFIX = ".reward.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

# of those that come with the program; their texts for people are not held
SHIPPED: dict[str, dict[str, str]] = {
    "hh-minilm": {
        "card.json": "18ade6d2685d43a70de61f5f49a4f9fa97c80256a8401f852f18e0ee24e5b36f",
        "golden.json": "5fe785fe8705a96a00aa3f266f8f30510c25062e75ffd301391bab63fe210890",
        "model.onnx": "a55e892bf7bab1aae4e73ddceb6ff7436208dc47506b02bb45790dcf501e9902",
        "reward.json": "4d685691edd2e6972a844363a5860ed0142733cf214c0b5372e4feef8d74806a",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    }
}


def record_of(folder: Path, name: str) -> dict[str, str] | None:
    """The sha256 of each file of a reward model by its name, None where nobody recorded any.

    folder: the models folder that the reward model lies in. Raises ModelError for a record that
    cannot be read.
    """
    path = record_path(folder / name)
    if not path.is_file():
        return None
    try:
        files = read_object(path, SCHEMA, {"files"})["files"]
        if not isinstance(files, dict) or not files:
            raise ValueError("it names no files")
        for file_name, digest in files.items():
            if not is_sha256(digest):
                raise ValueError("a sha256 that is none")
            if not _FILE_NAME.fullmatch(file_name):
                raise ValueError("a name that is none of a file in the folder")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: not a record of a reward model ({error}): remove it, and install {name} again"
        ) from error
    return files


def write_record(folder: Path, name: str, files: dict[str, str]) -> None:
    """Record what the files of `folder/name` hash to. Raises OSError."""
    path = record_path(folder / name)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"schema": SCHEMA, "files": files}, indent=1, sort_keys=True) + "\n"
    write_atomically(path, content.encode())


def recorded(folder: Path) -> list[str]:
    """The reward models of a models folder that have a record, sorted."""
    found = (folder / FOLDER).glob(f"*{_SUFFIX}")
    return sorted(path.name.removesuffix(_SUFFIX) for path in found)


def record_path(place: Path) -> Path:
    """Where the record of the reward model in the folder `place` stands."""
    return place.parent / FOLDER / f"{place.name}{_SUFFIX}"
