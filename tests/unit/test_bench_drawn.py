"""Answers drawn for benchmarks: imposed acceptance, what is counted, the figures made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stars_local.bench.against_cards import (
    BARRIER,
    CARDS,
    REFILLED,
    SEGMENTS,
    figures_of_cards,
    segmentations,
    together,
)
from stars_local.bench.against_vanilla import AUTO, figures_of_widths
from stars_local.bench.drawn import (
    MAX_ATTEMPTS,
    Drawn,
    TimedReward,
    balanced_seeds,
    best_of,
    coined,
    draw,
    n_attempts,
    plain,
    task,
)
from stars_local.core.boundaries import BoundaryKind
from stars_local.core.doubles import EnumerableModel, TableReward
from stars_local.core.methods import Segmentation
from stars_local.core.records import Prompt
from stars_local.core.seeds import SeedSource
from stars_local.core.widths import FixedWidth

SEGMENT, N_TOKENS = 4, 16
N_SEGMENTS = N_TOKENS // SEGMENT


def model() -> EnumerableModel:
    return EnumerableModel(("a", "b", "c"), lambda _: (0.5, 0.3, 0.2, 0.0), n_ctx=256)


def ticking(step: float = 1.0) -> Callable[[], float]:
    """A clock that moves on at every look."""
    now = 0.0

    def look() -> float:
        nonlocal now
        now += step
        return now

    return look


def stars_once(rate: int, width: int, seed: int) -> Drawn:
    method = coined(rate, Segmentation(SEGMENT), N_TOKENS, partial(FixedWidth, width))
    answer = task("x", method, "stars", seed, N_TOKENS)
    return draw(model(), TableReward(len), [answer])


@given(rate=st.integers(1, 8), seed=st.integers(0, 10**6), width=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_the_coin_decides_whatever_the_reward_and_the_width(
    rate: int, seed: int, width: int
) -> None:
    drawn = stars_once(rate, width, seed)
    seeds = SeedSource(seed, "bench0")
    wanted = [n_attempts(seeds, rate, segment) for segment in range(N_SEGMENTS)]
    assert [segment.n_attempts for segment in drawn.results[0].segments] == wanted
    assert drawn.n_rejections == sum(wanted) - N_SEGMENTS


@given(rate=st.integers(2, 8))
@settings(max_examples=7, deadline=None)
def test_balanced_seeds_impose_the_rate_exactly(rate: int) -> None:
    for seed in islice(balanced_seeds(rate, N_SEGMENTS), 3):
        drawn = stars_once(rate, 1, seed)
        assert drawn.n_rejections == (rate - 1) * N_SEGMENTS
        assert drawn.wasted_per_rejection == SEGMENT


def test_balanced_seeds_leave_the_segments_to_the_coin() -> None:
    found = {
        tuple(n_attempts(SeedSource(seed, "bench0"), 4, segment) for segment in range(N_SEGMENTS))
        for seed in islice(balanced_seeds(4, N_SEGMENTS), 20)
    }
    assert len(found) > 10


def test_a_coin_that_never_falls_is_cut() -> None:
    assert n_attempts(SeedSource(0, "bench0"), 10**9, 0) == MAX_ATTEMPTS


def test_every_contender_keeps_as_many_tokens_and_scores_its_texts() -> None:
    rm = TableReward(len)
    methods = {
        "vanilla": plain(Segmentation(SEGMENT)),
        "best": best_of(3, SEGMENT),
        "stars": coined(2, Segmentation(SEGMENT), N_TOKENS, partial(FixedWidth, 2)),
    }
    calls = {}
    for name, method in methods.items():
        before = rm.n_calls
        drawn = draw(model(), rm, [task("x", method, name, 3, N_TOKENS)])
        calls[name] = rm.n_calls - before
        assert drawn.n_kept == N_TOKENS
    assert calls["vanilla"] == 0
    assert calls["best"] == 3
    assert calls["stars"] > N_SEGMENTS


def test_time_before_the_first_draw_is_left_out_of_drawing_and_of_scoring() -> None:
    method = coined(1, Segmentation(SEGMENT), N_TOKENS, partial(FixedWidth, 1))
    answer = task("x", method, "stars", 0, N_TOKENS)
    drawn = draw(model(), TableReward(len), [answer], clock=ticking())
    # of N_SEGMENTS + 1 scores, each two looks at the clock apart, r(x, "") comes before
    assert drawn.score_s == N_SEGMENTS
    assert 0 < drawn.first_s < drawn.seconds
    assert drawn.draw_s < drawn.seconds
    assert drawn.share_of_scoring == pytest.approx(N_SEGMENTS / drawn.draw_s)
    assert drawn.rate == pytest.approx(N_TOKENS / drawn.seconds)


def test_a_timed_reward_model_scores_as_the_one_inside() -> None:
    inner = TableReward(len)
    timed = TimedReward(inner, ticking(0.5))
    items = [(Prompt("1", text="x"), "abc"), (Prompt("1", text="x"), "")]
    assert timed.score(items).rewards == inner.score(items).rewards
    assert timed.seconds == 0.5
    assert (timed.info, timed.batch_invariant) == (inner.info, inner.batch_invariant)


def test_no_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="0 answers"):
        draw(model(), None, [])


def test_runs_one_after_another_add_up() -> None:
    parts = [stars_once(2, 1, seed) for seed in range(3)]
    whole = together(parts)
    assert whole.n_kept == 3 * N_TOKENS
    assert whole.seconds == pytest.approx(sum(part.seconds for part in parts))
    assert whole.n_rejections == sum(part.n_rejections for part in parts)
    assert whole.first_s == parts[0].first_s


def fake(seconds: float, rejections: int = 0, score_s: float = 0.0) -> Drawn:
    result = stars_once(1, 1, 0).results[0]
    return Drawn(seconds, seconds, 0.0, score_s, rejections, (result,))


def test_auto_is_held_against_the_best_fixed_width_by_its_median() -> None:
    by_width = {
        "1": [fake(8.0), fake(8.0), fake(1.0)],
        "4": [fake(4.0), fake(5.0), fake(4.0)],
        AUTO: [fake(6.0), fake(5.0), fake(6.0)],
    }
    figures = list(figures_of_widths("f", [fake(2.0, score_s=1.0)] * 3, by_width))
    assert figures[-1].versus == "the best fixed width, 4"
    assert figures[-1].value == 1.5
    found = {(figure.name, figure.versus): figure for figure in figures}
    assert found["f, width 1, time", "vanilla"].value == 4.0
    assert found["f, width 4, share of scoring", "its own time"].value == 0.0


def cards_found(seconds: Sequence[float]) -> dict[str, list[Drawn]]:
    return {
        f"{name}, {way}": [fake(s if name == CARDS else 2 * s, 8) for s in seconds]
        for name in segmentations()
        for way in (BARRIER, REFILLED)
    }


def test_stars_is_held_against_cards_run_the_same_way() -> None:
    figures = list(figures_of_cards("f", cards_found([1.0, 2.0, 4.0])))
    for size in SEGMENTS:
        for way in (BARRIER, REFILLED):
            line = f"f, STARS ({size}), {way}, speed"
            (one,) = [figure for figure in figures if figure.name == line]
            ends = [f for f in figures if f.name.startswith(f"{line}, 95 % interval")]
            assert one.versus == f"CARDS, {way}"
            assert one.value == pytest.approx(0.5)
            assert [end.value for end in ends] == pytest.approx([0.5, 0.5])
    judged = next(f for f in figures if f.name.endswith("attempts judged"))
    assert judged.value == 1.0 + 8 / N_SEGMENTS


def test_only_cards_segments_are_uneven() -> None:
    kinds = {name: one.kind for name, one in segmentations().items()}
    assert kinds.pop(CARDS) is BoundaryKind.ENTROPY
    assert set(kinds.values()) == {BoundaryKind.FIXED}
