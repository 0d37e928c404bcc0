"""Drawing whole answers for a benchmark, and what it took.

Acceptance is imposed by a seeded coin in place of the rule; rewards are computed all the same.
No end-of-generation token is drawn, so that every contender keeps as many tokens.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from stars_local.core.acceptance import CoinRule
from stars_local.core.driver import Driver, Task
from stars_local.core.events import Drawing, Finished, Judged, Kept
from stars_local.core.methods import Context, Segmentation, StarsParams, stars, vanilla
from stars_local.core.methods.best_of_n import best_of_n
from stars_local.core.ports import LanguageModel, RewardModel
from stars_local.core.records import Outcome, Prompt, Result, RewardInfo, Sampling, Scores
from stars_local.core.requests import Steps
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Threshold
from stars_local.core.widths import WidthPolicy

MAX_ATTEMPTS = 128  # so high that a rate of 1/10 is hardly ever cut
_SAMPLING = Sampling(ignore_eog=True)
Method = Callable[[Context], Steps]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What drawing answers took.

    seconds: wall clock from the opening of the first prompt. draw_s: from the first draw on, so
    without the prefill of the prompts opened before it. first_s: until the first segment was
    kept. score_s: inside the reward model. n_rejections: judged attempts that were rejected.
    """

    seconds: float
    draw_s: float
    first_s: float
    score_s: float
    n_rejections: int
    results: tuple[Result, ...]

    @property
    def n_kept(self) -> int:
        """Kept tokens of all answers."""
        return sum(result.n_kept_tokens for result in self.results)

    @property
    def rate(self) -> float:
        """Kept tokens a second, prefill included."""
        return self.n_kept / self.seconds

    @property
    def share_of_scoring(self) -> float:
        """Of the time from the first draw on, the part inside the reward model."""
        return self.score_s / self.draw_s

    @property
    def wasted_per_rejection(self) -> float:
        """Rejected tokens a rejection; 0 where nothing was rejected."""
        wasted = sum(result.n_rejected_tokens for result in self.results)
        return wasted / self.n_rejections if self.n_rejections else 0.0


@dataclass(slots=True)
class TimedReward:
    """A reward model that adds up the seconds spent in it."""

    inner: RewardModel
    clock: Callable[[], float] = time.perf_counter
    seconds: float = field(default=0.0)

    @property
    def info(self) -> RewardInfo:
        """The inner model's."""
        return self.inner.info

    @property
    def batch_invariant(self) -> bool:
        """The inner model's."""
        return self.inner.batch_invariant

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Scores:
        """Scores of the inner model."""
        started = self.clock()
        scores = self.inner.score(items)
        self.seconds += self.clock() - started
        return scores


def draw(
    lm: LanguageModel,
    rm: RewardModel | None,
    tasks: Sequence[Task],
    *,
    n_slots: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Drawn:
    """Draw answers, `n_slots` at a time, a slot refilled when its answer ends."""
    timed = None if rm is None else TimedReward(rm, clock)
    results: list[Result] = []
    n_rejections = 0
    first_draw: float | None = None
    first_kept: float | None = None
    spent = 0.0
    began = clock()
    for _, event in Driver(lm, timed, n_slots=n_slots, clock=clock).run(tasks):
        if isinstance(event, Drawing) and first_draw is None:
            first_draw, spent = clock(), 0.0 if timed is None else timed.seconds
        elif isinstance(event, Judged):
            n_rejections += event.attempt.outcome is Outcome.REJECTED
        elif isinstance(event, Kept) and first_kept is None:
            first_kept = clock()
        elif isinstance(event, Finished):
            results.append(event.result)
    ended = clock()
    if first_draw is None or first_kept is None:
        raise ValueError(f"{len(tasks)} answers were asked for and no segment was kept")
    return Drawn(
        ended - began,
        ended - first_draw,
        first_kept - began,
        0.0 if timed is None else timed.seconds - spent,
        n_rejections,
        tuple(results),
    )


def task(text: str, method: Method, name: str, seed: int, n_tokens: int, number: int = 0) -> Task:
    """An answer of `n_tokens` tokens; `number` tells prompts of one run apart."""
    prompt = Prompt(f"bench{number}", text=text)
    context = Context(SeedSource(seed, prompt.id), n_tokens, score_chunk=1)
    return Task(prompt, method, name, context, _SAMPLING)


def plain(segmentation: Segmentation) -> Method:
    """Vanilla."""
    return lambda context: vanilla(context, segmentation)


def best_of(n: int, segment: int) -> Method:
    """Best of n, all its answers scored together."""
    return lambda context: best_of_n(context, n, segment)


def coined(
    rate: int, segmentation: Segmentation, n_tokens: int, policy: Callable[[], WidthPolicy]
) -> Method:
    """STARS, or CARDS by its segmentation, with one attempt in `rate` accepted by a coin.

    policy: makes the width policy of each answer.
    """
    # the threshold is computed, and overruled by the coin
    threshold = Threshold(0.0, 0.5, n_tokens)

    def method(context: Context) -> Steps:
        params = StarsParams(
            threshold, CoinRule(1.0 / rate), segmentation, MAX_ATTEMPTS, widths=policy()
        )
        return stars(context, params)

    return method


def n_attempts(seeds: SeedSource, rate: int, segment: int) -> int:
    """Attempts that the coin takes at a segment, the accepted one included."""
    tosses = (seeds.uniform(segment, attempt) < 1.0 / rate for attempt in range(MAX_ATTEMPTS))
    return next((n for n, heads in enumerate(tosses, start=1) if heads), MAX_ATTEMPTS)


def balanced_seeds(rate: int, n_segments: int) -> Iterator[int]:
    """Seeds for prompt 0 whose coin takes `rate` attempts a segment on average, exactly.

    A geometric number of attempts scatters as much as its mean: the luck of a few segments would
    drown what is measured. Which segment takes how many stays the coin's.
    """
    for seed in itertools.count():
        seeds = SeedSource(seed, "bench0")
        total = sum(n_attempts(seeds, rate, segment) for segment in range(n_segments))
        if total == rate * n_segments:
            yield seed


def coined_answers(
    text: str, rate: int, segment: int, n_tokens: int, policy: Callable[[], WidthPolicy]
) -> Iterator[Task]:
    """Answers of STARS to one prompt without end, each with `rate` attempts a segment."""
    method = coined(rate, Segmentation(segment), n_tokens, policy)
    for seed in balanced_seeds(rate, -(-n_tokens // segment)):
        yield task(text, method, "stars", seed, n_tokens)
