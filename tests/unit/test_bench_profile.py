"""Timers from outside: own times that add up, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from stars_local.bench.profiling import DECODE, ENGINE, PARTS, SAMPLE, SCORING, probes, profile
from stars_local.bench.stopwatch import REST, Probe, Stopwatch
from stars_local.core.doubles import TableReward
from tests.support.tiny_bench import SMALL, tiny_bench


class Clock:
    """Stands still unless it is moved on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Layers:
    """Calls in calls that take a known time each."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def outer(self, n: int) -> int:
        self.clock.now += 1.0
        for _ in range(n):
            self.inner()
        self.clock.now += 1.0
        return n

    def inner(self) -> None:
        self.clock.now += 4.0

    def fail(self) -> None:
        self.clock.now += 8.0
        raise KeyError("as asked")


PROBES = tuple(Probe(name, Layers, name) for name in ("outer", "inner", "fail"))


def test_each_part_gets_its_own_time_and_the_rest_the_rest() -> None:
    clock = Clock()
    layers, watch = Layers(clock), Stopwatch(clock)
    with watch.attached(PROBES):
        clock.now += 0.5
        assert layers.outer(3) == 3
    clock.now += 1000.0
    assert watch.seconds == {"outer": 2.0, "inner": 12.0, REST: 0.5}
    assert sum(watch.shares().values()) == pytest.approx(1.0)
    assert watch.shares()["inner"] == pytest.approx(12.0 / 14.5)


def test_a_call_that_fails_is_counted_and_the_timers_come_off() -> None:
    before = dict(vars(Layers))
    clock = Clock()
    watch = Stopwatch(clock)
    with pytest.raises(KeyError), watch.attached(PROBES):
        Layers(clock).fail()
    assert watch.seconds == {"fail": 8.0, REST: 0.0}
    assert dict(vars(Layers)) == before


def test_what_is_queued_is_waited_for_inside_the_time() -> None:
    clock = Clock()
    watch = Stopwatch(clock)

    def settle(layers: Layers) -> None:
        layers.clock.now += 2.0

    with watch.attached([Probe("inner", Layers, "inner", settle)]):
        Layers(clock).inner()
    assert watch.seconds["inner"] == 6.0


def test_a_watch_that_saw_nothing_has_no_shares() -> None:
    with pytest.raises(ValueError, match="no time was counted"):
        Stopwatch().shares()


def test_the_shares_of_an_answer_add_up_to_one(tmp_path: Path) -> None:
    reward = TableReward({})
    attributes = [(probe.owner, probe.name) for probe in probes(reward)]
    before = [vars(owner)[name] for owner, name in attributes]
    bench = tiny_bench(tmp_path, reward)
    figures = list(profile(bench))
    assert [vars(owner)[name] for owner, name in attributes] == before
    n = len(PARTS)
    by_width = [figures[at : at + n] for at in range(0, len(figures), n)]
    assert len(by_width) == len(SMALL.policies) * len(SMALL.profiled_segments)
    for each in by_width:
        shares = {figure.name.rpartition("share of ")[2]: figure.value for figure in each}
        assert set(shares) == set(PARTS)
        assert sum(shares.values()) == pytest.approx(1.0)
        assert min(shares[part] for part in (DECODE, SAMPLE, ENGINE, SCORING)) > 0.0
