"""One caller at a time: llama.cpp contexts crash when two threads meet in them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

from stars_local.core.errors import ModelError
from stars_local.core.records import ModelInfo


class Guarded(Protocol):
    """What `guarded` needs of an object: a lock, whether it was closed, and its name."""

    _lock: threading.RLock
    _closed: bool

    @property
    def info(self) -> ModelInfo:
        """Who it is, for the message."""
        ...


_S = TypeVar("_S", bound=Guarded)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def guarded(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """Let one caller in at a time, and none after the object was closed."""

    @functools.wraps(method)
    def call(self: _S, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._lock:
            if self._closed:
                raise ModelError(f"{self.info.name}: the model was closed: load it again")
            return method(self, *args, **kwargs)

    return cast("Callable[Concatenate[_S, _P], _R]", call)
