"""The sampler's law, held against enumeration: segments, attempts, forced share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

from stars_local.core.acceptance import TiltRule
from stars_local.core.boundaries import Boundary, BoundaryKind
from stars_local.core.doubles import EnumerableModel, TableReward
from stars_local.core.events import Judged
from stars_local.core.methods import Context, Force, Segmentation, StarsParams, stars, vanilla
from stars_local.core.methods.base import Progress
from stars_local.core.methods.registry import MethodParams, build
from stars_local.core.records import Outcome, Prompt, Segment
from stars_local.core.requests import Propose, Request, Score, Steps
from stars_local.core.thresholds import Schedule, Threshold
from stars_local.core.widths import AutoWidth
from tests.support.laws import (
    Law,
    answer,
    first_segment_law,
    g_test,
    letters_model,
    letters_reward,
)

N_RUNS = 3000
SIZE = 3
MAX_NEW = 6
ALARM = 1e-4  # p-values below it fail; seeds are fixed, so a pass stays a pass


def params(beta: float, r_star: float, alpha: float, max_attempts: int, **more: Any) -> StarsParams:
    threshold = Threshold(r_star, alpha, MAX_NEW, more.pop("schedule", Schedule.RAMP))
    return StarsParams(threshold, TiltRule(beta), Segmentation(SIZE), max_attempts, **more)


def law_of(p: StarsParams) -> Law:
    if not isinstance(p.rule, TiltRule):
        raise TypeError("only the tilt has a law here")
    return first_segment_law(
        letters_model(), letters_reward(), p.threshold, p.rule.beta, Boundary(SIZE), p.max_attempts
    )


def first_segments(method: Any, width: int, n: int = N_RUNS, chunk: int = 0) -> list[Segment]:
    model, reward = letters_model(), letters_reward()
    return [
        answer(
            model,
            reward,
            method,
            seed=0,
            prompt_id=f"p{i}",
            max_new_tokens=MAX_NEW,
            width=width,
            score_chunk=chunk,
        ).segments[0]
        for i in range(n)
    ]


def ids_of(segment: Segment) -> tuple[int, ...]:
    ids = tuple("abc".index(char) for char in segment.text)
    return ids if segment.n_tokens == len(ids) else (*ids, 3)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize(
    ("beta", "r_star", "alpha"),
    [(0.3, 1.2, 0.5), (1.0, 1.5, 0.9), (0.1, 0.6, 0.1), (0.0, 0.5, 0.5)],
)
def test_accepted_segments_attempts_and_forced_share_follow_the_law(
    width: int, beta: float, r_star: float, alpha: float
) -> None:
    p = params(beta, r_star, alpha, max_attempts=5)
    law = law_of(p)
    kept = first_segments(lambda c: stars(c, p), width)
    accepted = [s for s in kept if s.outcome is Outcome.ACCEPTED]
    assert g_test(Counter(map(ids_of, accepted)), dict(law.accepted)) > ALARM
    assert g_test(Counter(s.n_attempts for s in kept), dict(law.attempts())) > ALARM
    n_forced = len(kept) - len(accepted)
    forced = {"forced": law.forced_share, "accepted": 1 - law.forced_share}
    assert g_test(Counter({"forced": n_forced, "accepted": len(accepted)}), dict(forced)) > ALARM


@pytest.mark.slow
@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("origin", [-2.0, 0.7])
@pytest.mark.parametrize("relative", [False, True])
def test_every_schedule_follows_the_law_from_zero_and_from_the_prompt(
    schedule: Schedule, origin: float, relative: bool
) -> None:
    """Relative to r(x, "") the law does not know where the prompt begins; else it does."""
    model, letters = letters_model(), letters_reward()

    def shifted(by: float) -> TableReward:
        prompt = Prompt("p", text="x")
        return TableReward(lambda text: by + letters.score([(prompt, text)]).rewards[0].value)

    target = 1.0 if relative else 1.0 + origin
    quantiles = (target - 0.2, target)
    threshold = Threshold(target, 0.5, MAX_NEW, schedule, False, relative, quantiles, SIZE)
    p = StarsParams(threshold, TiltRule(0.3), Segmentation(SIZE), 5)
    law, at_zero = (
        first_segment_law(model, shifted(by), threshold, 0.3, Boundary(SIZE), 5)
        for by in (origin, 0.0)
    )
    assert (law.z == pytest.approx(at_zero.z)) == relative
    kept = [
        answer(
            model, shifted(origin), lambda c: stars(c, p), prompt_id=f"p{i}", max_new_tokens=MAX_NEW
        ).segments[0]
        for i in range(1000)
    ]
    accepted = [s for s in kept if s.outcome is Outcome.ACCEPTED]
    assert g_test(Counter(map(ids_of, accepted)), dict(law.accepted)) > ALARM
    assert g_test(Counter(s.n_attempts for s in kept), dict(law.attempts())) > ALARM


def test_forced_last_follows_the_rejected_law() -> None:
    p = params(0.2, 2.0, 0.9, max_attempts=2, force=Force.LAST)
    law = law_of(p)
    forced = [
        ids_of(s) for s in first_segments(lambda c: stars(c, p), 2) if s.outcome is Outcome.FORCED
    ]
    rejected = {
        ids: (share - law.accepted[ids] * law.z) / (1 - law.z)
        for ids, share in law.proposal.items()
    }
    assert g_test(Counter(forced), dict(rejected)) > ALARM


@pytest.mark.parametrize("chunk", [1, 2, 0])
def test_the_same_tokens_for_every_width_policy_and_chunk(chunk: int) -> None:
    p = params(0.2, 1.4, 0.5, max_attempts=7)

    def auto(context: Context) -> Steps:
        widths = AutoWidth({1: 1.0, 2: 1.2, 4: 1.5, 8: 2.5})
        return stars(context, StarsParams(p.threshold, p.rule, p.segmentation, 7, p.force, widths))

    def segments(method: Any, width: int) -> list[Segment]:
        return first_segments(method, width, 200, chunk)

    alone = segments(lambda c: stars(c, p), 1)
    for width in (3, 8):
        assert segments(lambda c: stars(c, p), width) == alone
    assert segments(auto, 1) == alone


@pytest.mark.parametrize("seed", [0, 1, 2**40])
@pytest.mark.parametrize("width", [1, 4])
def test_a_threshold_of_minus_infinity_is_plain_sampling(seed: int, width: int) -> None:
    free = params(0.5, -math.inf, 0.5, max_attempts=9)
    for i in range(50):
        steered = answer(
            letters_model(),
            letters_reward(),
            lambda c: stars(c, free),
            seed=seed,
            prompt_id=str(i),
            width=width,
        )
        plain = answer(
            letters_model(),
            letters_reward(),
            lambda c: vanilla(c, Segmentation(SIZE)),
            seed=seed,
            prompt_id=str(i),
        )
        assert steered.token_ids == plain.token_ids
        assert steered.text == plain.text


def test_seeds_differ_and_zero_is_one_of_them() -> None:
    def text(seed: int) -> str:
        method = lambda c: vanilla(c, Segmentation(SIZE))  # noqa: E731
        return answer(letters_model(), letters_reward(), method, seed=seed, max_new_tokens=200).text

    assert text(0) == text(0)
    assert len({text(seed) for seed in range(20)}) > 10


def best_of_the_accepted(context: Context, p: StarsParams) -> Steps:
    """The wrong winner rule: of a round's accepted attempts it keeps the best, not the first."""
    progress = Progress(context)
    (initial,) = yield Score(("",))
    while progress.finish is None:
        yield from _biased_segment(progress, p, initial.value)
    return progress.finish


def _biased_segment(
    progress: Progress, p: StarsParams, initial: float
) -> Generator[Request, Any, None]:
    boundary = p.segmentation.boundary(progress.n_left)
    done = 0
    while True:
        proposals = yield Propose(progress.draws(done, progress.context.width), boundary)
        rewards = yield Score(tuple(q.extend(progress.text) for q in proposals))
        accepted = []
        for offset, (proposal, reward) in enumerate(zip(proposals, rewards, strict=True)):
            tau = p.threshold.at(progress.n_tokens + proposal.n_tokens, initial)
            verdict = p.rule(reward, tau, progress.uniform(done + offset))
            if verdict.accepted:
                accepted.append((reward.value, offset, proposal, reward, tau, verdict))
        if accepted:
            _, offset, proposal, reward, tau, verdict = max(accepted)
            event: Judged = progress.judged(
                done + offset, proposal, Outcome.ACCEPTED, reward, tau, verdict
            )
            yield event
            yield from progress.keep(proposal, event.attempt, done + offset + 1)
            return
        done += len(proposals)


def test_the_test_of_the_law_catches_a_biased_winner() -> None:
    p = params(1.0, 1.5, 0.9, max_attempts=5)
    kept = first_segments(lambda c: best_of_the_accepted(c, p), 8)
    assert g_test(Counter(map(ids_of, kept)), dict(law_of(p).accepted)) < ALARM


def test_a_threshold_taken_at_the_start_is_the_same_for_every_length() -> None:
    """The law of `tau_at_start`: by hand, tau is tau_0 for all first segments."""
    p = params(0.3, 1.2, 0.5, max_attempts=5, tau_at_start=True)
    model, reward = letters_model(), letters_reward()
    tau_0 = p.threshold.at(0, 0.0)
    law = first_segment_law(model, reward, Threshold(tau_0, 1.0, 1), 0.3, Boundary(SIZE), 5)
    kept = first_segments(lambda c: stars(c, p), 3)
    accepted = [s for s in kept if s.outcome is Outcome.ACCEPTED]
    assert {s.threshold for s in kept} == {tau_0}
    assert g_test(Counter(map(ids_of, accepted)), dict(law.accepted)) > ALARM
    assert g_test(Counter(s.n_attempts for s in kept), dict(law.attempts())) > ALARM
    assert law.z != pytest.approx(law_of(p).z, abs=0.01), "the case must tell start from end"


def test_cards_follows_the_law_of_segments_cut_before_uncertain_tokens() -> None:
    made = MethodParams(
        max_attempts=4,
        alpha=0.5,
        beta=0.3,
        reward_threshold=1.2,
        max_new_tokens=MAX_NEW,
        min_tokens=1,
        max_segment_tokens=4,
        entropy_threshold=1.15,
    )
    boundary = Boundary(4, BoundaryKind.ENTROPY, 1, 1.15)
    law = first_segment_law(letters_model(), letters_reward(), made.threshold(), 0.3, boundary, 4)
    assert len({len(ids) for ids in law.proposal}) > 2, "lengths must differ"
    kept = first_segments(build("cards", made), 3)
    accepted = [s for s in kept if s.outcome is Outcome.ACCEPTED]
    assert g_test(Counter(map(ids_of, accepted)), dict(law.accepted)) > ALARM
    assert g_test(Counter(s.n_attempts for s in kept), dict(law.attempts())) > ALARM


def test_sentence_segments_and_plain_sampling_follow_their_laws() -> None:
    model = EnumerableModel("a.b", lambda ids: (0.4, 0.3, 0.25, 0.05))
    reward = TableReward(lambda text: text.count("a") - 0.5 * len(text))
    boundary = Boundary(4, BoundaryKind.SENTENCE, 2)
    cut = Segmentation(4, BoundaryKind.SENTENCE, 2)
    threshold = Threshold(0.3, 0.5, 12)
    p = StarsParams(threshold, TiltRule(0.4), cut, 4)
    law = first_segment_law(model, reward, threshold, 0.4, boundary, 4)

    def texts(expected: dict[tuple[int, ...], float]) -> dict[object, float]:
        found: Counter[object] = Counter()
        for ids, share in expected.items():
            found[model.text(ids), len(ids)] += share  # type: ignore[assignment]
        return dict(found)

    for method, expected in (
        (lambda c: stars(c, p), law.accepted),
        (lambda c: vanilla(c, cut), law.proposal),
    ):
        kept = [
            answer(model, reward, method, prompt_id=f"p{i}", max_new_tokens=12).segments[0]
            for i in range(1500)
        ]
        seen = Counter((s.text, s.n_tokens) for s in kept if s.outcome is Outcome.ACCEPTED)
        assert g_test(seen, texts(expected)) > ALARM
