"""How a job of the helper process says no."""

from __future__ import annotations


class Refusal(Exception):
    """A job's reason why not. `kind` lets the parent tell sorts of refusal apart."""

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind
