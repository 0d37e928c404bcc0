"""Scores and the language model side by side: when, and with what left over."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import pytest

from stars_local.chat.noting import Noting
from stars_local.core.acceptance import CoinRule
from stars_local.core.doubles import EnumerableModel, TableReward
from stars_local.core.driver import Driver, Task
from stars_local.core.errors import ModelError, RewardError
from stars_local.core.events import Event
from stars_local.core.methods import Context, Segmentation, StarsParams, stars
from stars_local.core.overlap import LooksAhead, beside, overlaps
from stars_local.core.records import Prompt, Scores
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Threshold

WAIT_S = 20.0


class Ahead(EnumerableModel):
    """Tells whoever waits that it looked ahead."""

    def __init__(self) -> None:
        super().__init__("ab", lambda ids: (0.5, 0.5, 0.0))
        self.looked = threading.Event()
        self.trunks: list[int] = []

    def look_ahead(self, trunk: int) -> None:
        self.trunks.append(trunk)
        self.looked.set()


class Waiting(TableReward):
    """Gives no score before the language model looked ahead."""

    def __init__(self, model: Ahead) -> None:
        super().__init__(lambda text: float(len(text)))
        self.looked = model.looked

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Scores:
        if not self.looked.wait(WAIT_S):
            raise RewardError("nobody looked ahead")
        self.looked.clear()
        return super().score(items)


def task(number: int, *, overlap: bool, width: int = 3) -> Task:
    params = StarsParams(Threshold(1.0, 0.5, 24), CoinRule(0.3), Segmentation(4), 6)
    context = Context(SeedSource(number, f"p{number}"), 24, width=width, score_chunk=1)
    prompt = Prompt(f"p{number}", text="x")
    return Task(prompt, lambda c: stars(c, params), "stars", context, overlap=overlap)


def plainly(model: EnumerableModel, tasks: list[Task], n_slots: int = 1) -> list[Event]:
    ticks = itertools.count()
    reward = TableReward(lambda text: float(len(text)))
    driver = Driver(model, reward, n_slots=n_slots, clock=lambda: 0.0 * next(ticks))
    return [event for _, event in driver.run(tasks)]


def test_the_model_looks_ahead_while_a_score_is_out() -> None:
    model = Ahead()
    driver = Driver(Noting(model), Waiting(model), clock=lambda: 0.0)
    events = list(driver.stream(task(1, overlap=True)))
    assert len(model.trunks) > 6
    assert events == plainly(Ahead(), [task(1, overlap=False)])


def test_off_and_several_prompts_look_at_nothing() -> None:
    model = Ahead()
    plainly(model, [task(1, overlap=False)])
    assert model.trunks == []
    both = [task(1, overlap=True, width=1), task(1, overlap=True, width=1)]
    plainly(model, both, n_slots=2)  # the same draws: always two scores out
    assert model.trunks == []


def test_a_model_that_cannot_is_not_asked() -> None:
    bare = EnumerableModel("ab", lambda ids: (0.5, 0.5, 0.0))
    assert not isinstance(bare, LooksAhead)
    Noting(bare).look_ahead(0)
    assert plainly(bare, [task(2, overlap=True)]) == plainly(Ahead(), [task(2, overlap=False)])


def test_either_sides_error_arrives_when_both_have_ended() -> None:
    ended = threading.Event()

    def fail() -> None:
        raise ModelError("as asked")

    def slow() -> int:
        ended.wait(0.05)
        ended.set()
        return 3

    with pytest.raises(ModelError):
        beside(slow, fail)
    assert ended.is_set()
    with pytest.raises(ModelError):
        beside(fail, lambda: None)
    assert beside(slow, lambda: None) == 3


@pytest.mark.parametrize(
    ("setting", "language", "reward", "wanted"),
    [
        ("auto", True, False, True),
        ("auto", False, True, True),
        ("auto", False, False, False),
        ("auto", True, True, False),
        ("on", False, False, True),
        ("off", True, False, False),
    ],
)
def test_where_it_is_done(setting: str, language: bool, reward: bool, wanted: bool) -> None:
    assert overlaps(setting, language_on_gpu=language, reward_on_gpu=reward) is wanted
