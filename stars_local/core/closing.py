"""What holds a file or native memory, and lets go of it at the end of a `with` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Usable in a `with` block, which closes it however the block ends."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it; harmless when repeated."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
