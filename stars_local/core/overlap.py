"""Working while scores are out: the language model looks ahead beside the reward model.

Whichever attempt of a round is accepted, the next round begins by decoding its last token, and
nothing else of that round can be decoded before the verdict. So that one step, for all attempts
at once, is what there is to gain: no draw depends on it, and no verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar, runtime_checkable

AUTO, ON, OFF = "auto", "on", "off"
OVERLAPS = (AUTO, ON, OFF)
T = TypeVar("T")


@runtime_checkable
class LooksAhead(Protocol):
    """A language model that can decode before the verdict."""

    def look_ahead(self, trunk: int) -> None:
        """Decode what a next round needs, whichever proposal of the trunk is committed.

        Proposals and what follows them stay as they are; does nothing where there is no room.
        """
        ...


def overlaps(setting: str, *, language_on_gpu: bool, reward_on_gpu: bool) -> bool:
    """Whether to look ahead: `auto` does where the models sit on different devices, for on one
    device they would take the time from each other."""
    return setting == ON or (setting == AUTO and language_on_gpu != reward_on_gpu)


def beside(work: Callable[[], T], meanwhile: Callable[[], None]) -> T:
    """The result of `work`, run in another thread while `meanwhile` runs in this one.

    Both have ended when it returns or raises.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = pool.submit(work)
        meanwhile()
        return pending.result()
