"""Small facts remembered between runs in the user's cache directory, one JSON object a topic.

A cache that cannot be read or written costs time, never correctness: errors are passed over.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import platformdirs


class DiskCache:
    """A JSON object on disk, by name. Values are JSON values; keys are text."""

    def __init__(self, name: str) -> None:
        self._path = Path(platformdirs.user_cache_dir("stars-local")) / f"{name}.json"

    def get(self, key: str) -> object:
        """The value of a key, None where it is unknown."""
        return self._read().get(key)

    def put(self, key: str, value: object) -> None:
        """Remember a value; other keys stay."""
        content = {**self._read(), key: value}
        temporary: str | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
                temporary = file.name
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._path)
        except OSError:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    def _read(self) -> dict[str, object]:
        try:
            content = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
