"""What a decoding method asks of its driver.

A method is a generator: it yields requests and is sent the replies.

    Propose(draws, boundary)   ->  tuple[Proposal, ...]   maybe fewer than draws, never none
    Score(texts)               ->  tuple[Reward, ...]     in the same order
    Commit(proposal)           ->  None                   it becomes part of the response
    Reject(proposals)          ->  None                   their branches are dropped
    Event                      ->  None                   passed on to whoever watches

It returns the reason why the answer ended. `Halt` is thrown in at a `Propose` when a budget,
a deadline or a person ends the answer there: a method may still commit something, or let it
pass. It does no I/O, reads no clock and owns no global state.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from stars_local.core.boundaries import Boundary
from stars_local.core.events import Event
from stars_local.core.ports import Draw
from stars_local.core.records import Finish, Proposal


@dataclass(frozen=True, slots=True)
class Propose:
    """Draw these attempts under this boundary rule."""

    draws: tuple[Draw, ...]
    boundary: Boundary


@dataclass(frozen=True, slots=True)
class Score:
    """Score these cumulative responses."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """Keep this proposal; all others of the prompt are dropped."""

    proposal: Proposal


@dataclass(frozen=True, slots=True)
class Reject:
    """Drop these proposals."""

    proposals: tuple[Proposal, ...]


Request = Propose | Score | Commit | Reject | Event
Steps = Generator[Request, Any, Finish]


class Halt(Exception):
    """The answer must end now; `partial` are proposals that were cut while being drawn."""

    def __init__(self, reason: Finish, partial: tuple[Proposal, ...] = ()) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.partial = partial
