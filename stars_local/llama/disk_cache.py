"""Small facts remembered between runs in the user's cache directory, one JSON object a topic.

A cache that cannot be read or written costs time, never correctness: errors are passed over.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import platformdirs

from stars_local.core.files import write_atomically
from stars_local.core.strict_json import parse_json


def cache_folder() -> Path:
    """Where measurements of this machine, and verdicts on files, are kept."""
    return platformdirs.user_cache_path("stars-local")


class DiskCache:
    """A JSON object on disk, by name. Values are JSON values; keys are text."""

    def __init__(self, name: str) -> None:
        self._path = cache_folder() / f"{name}.json"

    def get(self, key: str) -> object:
        """The value of a key, None where it is unknown."""
        return self._read().get(key)

    def put(self, key: str, value: object) -> None:
        """Remember a value; other keys stay."""
        content = {**self._read(), key: value}
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(content).encode(), private=True)

    def _read(self) -> dict[str, object]:
        try:
            content = parse_json(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
