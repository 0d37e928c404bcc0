"""The small pure pieces: acceptance, thresholds, boundaries, stop strings, seeds, widths."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.acceptance import CoinRule, TiltRule, log_probability
from stars_local.core.boundaries import Boundary, BoundaryKind, StopScanner, held_back
from stars_local.core.records import Reward
from stars_local.core.seeds import N_SEEDS, SeedSource
from stars_local.core.thresholds import Schedule, Threshold
from stars_local.core.widths import HALF_LIFE, Acceptances, AutoWidth

finite = st.floats(-1e6, 1e6)
uniform = st.floats(0.0, 1.0, exclude_max=True)


@given(finite, finite, st.floats(1e-6, 1e3))
def test_acceptance_is_the_clipped_tilt(reward: float, tau: float, beta: float) -> None:
    wanted = 1.0 if reward >= tau else math.exp((reward - tau) / beta)
    assert math.exp(log_probability(reward, tau, beta)) == pytest.approx(wanted, rel=1e-9)


@given(finite, finite, uniform)
def test_beta_zero_is_the_hard_rule(reward: float, tau: float, u: float) -> None:
    verdict = TiltRule(0.0)(Reward(reward), tau, u)
    assert verdict.accepted == (reward >= tau)
    assert verdict.probability == (1.0 if reward >= tau else 0.0)


@given(finite, finite, st.floats(0.0, 1e3), uniform)
def test_a_failed_gate_is_never_accepted(reward: float, tau: float, beta: float, u: float) -> None:
    verdict = TiltRule(beta)(Reward(reward, passed=False), tau, u)
    assert not verdict.accepted
    assert verdict.probability == 0.0


def test_infinite_thresholds_accept_all_or_nothing() -> None:
    assert TiltRule(1.0)(Reward(-1e9), -math.inf, 0.999).accepted
    assert not TiltRule(1.0)(Reward(1e9), math.inf, 0.0).accepted


@given(st.floats(0.0, 1.0), uniform)
def test_the_coin_ignores_the_reward(rate: float, u: float) -> None:
    assert CoinRule(rate)(Reward(-9.0), 9.0, u).accepted == (u < rate)


@given(
    finite,
    finite,
    st.floats(0, 1),
    st.integers(1, 4096),
    st.lists(st.integers(0, 8192), min_size=2),
    st.sampled_from([Schedule.RAMP, Schedule.DECAY]),
)
def test_schedules_are_monotone_between_tau_0_and_r_star(
    r_star: float,
    initial: float,
    alpha: float,
    n_max: int,
    places: list[int],
    schedule: Schedule,
) -> None:
    threshold = Threshold(r_star, alpha, n_max, schedule)
    taus = [threshold.at(n, initial) for n in sorted(places)]
    sign = 1 if (r_star >= initial) == (schedule is Schedule.RAMP) else -1
    slack = 1e-9 * (abs(r_star) + abs(initial) + 1)
    assert all(sign * (b - a) >= -slack for a, b in itertools.pairwise(taus))
    if schedule is Schedule.RAMP:
        assert max(taus) <= r_star
        assert threshold.at(n_max, initial) == pytest.approx(r_star, rel=1e-9, abs=1e-9)


def test_thresholds_by_hand() -> None:
    ramp = Threshold(2.0, 0.5, 100)
    assert ramp.at(0, 1.0) == 1.5
    assert ramp.at(50, 1.0) == 1.75
    assert ramp.at(500, 1.0) == 2.0
    assert ramp.at(0, 9.0) == 2.0, "never above r_star"
    assert Threshold(2.0, 0.5, 100, ended_at_r_star=True).at(1, 0.0, ended=True) == 2.0
    assert ramp.at(1, 0.0, ended=True) < 2.0
    assert Threshold(2.0, 1.0, 100, relative=True).at(0, 1.0) == 3.0
    quantile = Threshold(2.0, 0.5, 100, Schedule.QUANTILE, quantiles=(0.1, 0.2), quantile_size=8)
    assert [quantile.at(n, 0.0) for n in (1, 8, 9, 16, 17, 99)] == [0.1, 0.1, 0.2, 0.2, 0.2, 0.2]
    assert quantile.at(8, 0.0, n_end=9) == 0.2
    assert Threshold(2.0, 0.5, 100, Schedule.QUANTILE).at(9, 0.0) == 2.0
    assert Threshold(-math.inf, 0.5, 100).at(3, 1.0) == -math.inf


@given(st.integers(1, 64), st.text(max_size=40), st.integers(1, 80))
def test_no_rule_outlives_its_longest_segment(size: int, text: str, n: int) -> None:
    for kind in BoundaryKind:
        boundary = Boundary(size, kind, min(4, size), 1.0)
        assert boundary.ends_after(n, text) or n < size
        assert boundary.shortened(n).max_tokens == min(n, size)
        assert boundary.shortened(n).min_tokens <= boundary.shortened(n).max_tokens


@pytest.mark.parametrize(
    ("text", "ends"),
    [("Yes.", True), ('He said "no!"', True), ("e.g", False), ("line\n", True), ("so, ", False)],
)
def test_sentences_end_at_punctuation_and_newlines(text: str, ends: bool) -> None:
    assert Boundary(99, BoundaryKind.SENTENCE, 2).ends_after(2, text) is ends
    assert not Boundary(99, BoundaryKind.SENTENCE, 3).ends_after(2, text)
    assert not Boundary(99).ends_after(2, text)


def test_entropy_cuts_only_between_its_bounds() -> None:
    boundary = Boundary(64, BoundaryKind.ENTROPY, 4, 2.0)
    assert boundary.ends_before(4, 2.0)
    assert not boundary.ends_before(3, 9.0)
    assert not boundary.ends_before(9, 1.9)
    assert not Boundary(64).ends_before(9, 99.0)


letters = st.text("ab", max_size=12)


@given(st.lists(letters, max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_is_found_however_the_text_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    whole = "".join(pieces)
    places = [whole.find(stop) for stop in stops if stop in whole]
    scanner, seen, hit_at = StopScanner(tuple(stops)), 0, None
    for piece in pieces:
        scanner, hit = scanner.feed(piece)
        if hit is not None:
            hit_at = seen + hit
            break
        seen += len(piece)
    if hit_at is None:
        assert not places
    else:
        assert any(whole.startswith(stop, hit_at) for stop in stops)
        assert hit_at == min(
            place
            for stop in stops
            if (place := whole.find(stop)) >= 0 and place + len(stop) <= seen + len(piece)
        )


@given(letters, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_is_held_back_is_exactly_what_could_become_a_stop_string(
    text: str, stops: list[str]
) -> None:
    n = held_back(text, tuple(stops))
    could = [
        size
        for size in range(1, len(text) + 1)
        if any(size < len(stop) and stop.startswith(text[-size:]) for stop in stops)
    ]
    assert n == max(could, default=0)


@given(st.integers(), st.text(max_size=8), st.integers(0, 99), st.integers(0, 99))
def test_seeds_lie_in_range_and_depend_on_every_part(
    seed: int, prompt_id: str, segment: int, attempt: int
) -> None:
    source = SeedSource(seed, prompt_id)
    assert 0 <= source.draw(segment, attempt) < N_SEEDS
    assert 0.0 <= source.uniform(segment, attempt) < 1.0
    others = {
        SeedSource(seed + 1, prompt_id).draw(segment, attempt),
        SeedSource(seed, prompt_id + "x").draw(segment, attempt),
        SeedSource(seed, prompt_id, 1).draw(segment, attempt),
        source.draw(segment + 1, attempt),
        source.draw(segment, attempt + 1),
        source.draw(segment, attempt),
    }
    assert len(others) == 6


def test_answers_that_share_what_they_saw_begin_where_the_last_one_ended() -> None:
    cost = {1: 1.0, 4: 1.6, 16: 3.2}
    seen = Acceptances()
    first = AutoWidth(cost, seen)
    assert AutoWidth(cost).next_width() == first.next_width() == 4
    for _ in range(40):
        first.observe(accepted=True)
    assert AutoWidth(cost, seen).next_width() == 1
    assert AutoWidth(cost).next_width() == 4


@given(st.floats(0.0, 1.0), st.integers(0, 300))
def test_what_was_seen_long_ago_counts_less(before: float, n: int) -> None:
    seen = Acceptances(before * 50, 50.0)
    for _ in range(n):
        seen.add(accepted=True)
    assert 0.0 < seen.rate() < 1.0
    assert seen.n_judged <= max(50.0, 1 / (1 - 0.5 ** (1 / HALF_LIFE)))
    rejected_share = (seen.n_judged - seen.n_accepted) / seen.n_judged
    assert rejected_share <= 1 - before + 1e-9
    if n >= HALF_LIFE:
        assert seen.n_judged - seen.n_accepted <= 0.5 * 50 * (1 - before) + 1e-9


def test_auto_width_widens_as_acceptance_falls() -> None:
    cost = {1: 1.0, 2: 1.2, 4: 1.6, 8: 2.4, 16: 3.2}

    def after(accepted: int, judged: int) -> int:
        policy = AutoWidth(cost)
        for n in range(judged):
            policy.observe(accepted=n < accepted)
        return policy.next_width()

    widths = [after(accepted, 400) for accepted in (400, 200, 100, 50, 25)]
    assert widths == sorted(widths)
    assert widths[0] == 1
    assert widths[-1] == 16
