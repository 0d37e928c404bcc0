"""Solving the threshold for a wanted cost, from measurements.

1. Plain answers (tau = -inf): several independent draws at every segment give the spread of
   rewards, by position, between prompts and within one, and a first r_star.
2. Rounds on STARS' own prefixes: the same, but the path follows the rule at the current r_star,
   since from the second segment on plain answers have the wrong prefixes. r_star is solved again
   after each.
3. A check: STARS as it will run, on prompts that took no part, against the prediction.

alpha and beta are fixed by rule: alpha 0.8, beta 0.1 of the standard deviation of plain answers'
rewards, so that r_star is the one number that is solved for.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stars_local.core.acceptance import TiltRule
from stars_local.core.driver import Driver, Task
from stars_local.core.errors import CalibrationError
from stars_local.core.events import Finished
from stars_local.core.methods.base import Context, Progress, Segmentation
from stars_local.core.methods.stars import StarsParams, stars
from stars_local.core.ports import LanguageModel, RewardModel
from stars_local.core.records import Outcome, Prompt, Result, Sampling
from stars_local.core.requests import Propose, Request, Score, Steps
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Threshold
from stars_local.reward.attempts_law import AttemptsLaw, Position, solve_threshold
from stars_local.reward.calibration import Measured

ALPHA = 0.8
BETA_IN_SPREADS = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """How a calibration is made. Exactly one of `attempts` and `quantile` is given.

    n_draws: independent draws a segment. n_rounds: rounds on STARS' own prefixes. n_slots:
    prompts in lockstep.
    """

    attempts: float | None = 3.0
    quantile: float | None = None
    alpha: float = ALPHA
    beta_in_spreads: float = BETA_IN_SPREADS
    segment_size: int = 32
    max_new_tokens: int = 128
    max_attempts: int = 20
    n_draws: int = 4
    n_rounds: int = 2
    n_slots: int = 8
    width: int = 4
    seed: int = 0
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outline:
    """What the first two steps found, before any check."""

    threshold: Threshold
    beta: float
    spread: float
    within_spread: float
    quantiles: tuple[float, ...]
    by_position: tuple[dict[str, float], ...]
    predicted: Measured


Progressed = Callable[[str, int, int], None]


class Calibrator:
    """Runs a plan over a language model and a reward model.

    on_progress(stage, done, total) is called after every answer.
    """

    def __init__(
        self, lm: LanguageModel, rm: RewardModel, plan: Plan, on_progress: Progressed
    ) -> None:
        if (plan.attempts is None) == (plan.quantile is None):
            raise CalibrationError("calibrate for --attempts or for --quantile, one of the two")
        self._lm = lm
        self._rm = rm
        self._plan = plan
        self._on_progress = on_progress

    def solve(self, prompts: Sequence[Prompt]) -> Outline:
        """Steps 1 and 2: find the threshold on these prompts."""
        plan = self._plan
        template = Threshold(-math.inf, plan.alpha, plan.max_new_tokens)
        plain, answers = self._probe(prompts, template, 0.0, "plain answers")
        finals = [_final_reward(result) for result in answers]
        spread = float(np.std(finals))
        if not spread > 0:
            raise CalibrationError(
                f"all {len(finals)} plain answers have the same reward: nothing can be calibrated"
            )
        beta = plan.beta_in_spreads * spread
        positions = plain
        threshold = self._solved(positions, template, beta, finals)
        for n in range(plan.n_rounds if plan.quantile is None else 1):
            stage = f"round {n + 1} on STARS' own prefixes"
            positions, _ = self._probe(prompts, threshold, beta, stage)
            threshold = self._solved(positions, template, beta, finals)
        law = AttemptsLaw(positions, plan.max_attempts)
        cost = law.cost(threshold, beta)
        predicted = Measured(
            cost.attempts,
            _bootstrap_law(positions, threshold, beta, plan),
            cost.forced_share,
            len(prompts),
            len(positions),
        )
        return Outline(
            threshold,
            beta,
            spread,
            AttemptsLaw(plain, plan.max_attempts).within,
            _quantiles(plain, 1.0 - 1.0 / max(predicted.attempts, 1.01)),
            _by_position(plain),
            predicted,
        )

    def check(self, prompts: Sequence[Prompt], outline: Outline) -> tuple[Measured, list[Result]]:
        """Step 3: STARS as it will run, on prompts that took no part."""
        params = StarsParams(
            outline.threshold,
            TiltRule(outline.beta),
            Segmentation(self._plan.segment_size),
            self._plan.max_attempts,
        )
        results = list(
            self._answers(prompts, lambda c: stars(c, params), "check", self._plan.width)
        )
        return measured(results, self._plan.seed), results

    def _solved(
        self,
        positions: Sequence[Position],
        template: Threshold,
        beta: float,
        finals: Sequence[float],
    ) -> Threshold:
        if self._plan.quantile is not None:
            return replace(template, r_star=float(np.quantile(finals, self._plan.quantile)))
        attempts = self._plan.attempts if self._plan.attempts is not None else 0.0
        law = AttemptsLaw(positions, self._plan.max_attempts)
        r_star = solve_threshold(law, template, beta, attempts, self._plan.max_attempts)
        return replace(template, r_star=r_star)

    def _probe(
        self, prompts: Sequence[Prompt], threshold: Threshold, beta: float, stage: str
    ) -> tuple[list[Position], list[Result]]:
        """Answers whose every segment was drawn `n_draws` times, and the draws' rewards."""
        positions: list[Position] = []
        rule = TiltRule(beta)
        segmentation = Segmentation(self._plan.segment_size)

        def method(context: Context) -> Steps:
            return _probing(context, threshold, rule, segmentation, positions)

        results = list(self._answers(prompts, method, stage, self._plan.n_draws))
        return [p for p in positions if len(p.rewards) > 1], results

    def _answers(
        self,
        prompts: Sequence[Prompt],
        method: Callable[[Context], Steps],
        stage: str,
        width: int,
    ) -> Iterator[Result]:
        plan = self._plan
        chunk = 0 if self._rm.batch_invariant else 1

        def task(prompt: Prompt) -> Task:
            seeds = SeedSource(plan.seed, prompt.id)
            context = Context(seeds, plan.max_new_tokens, "", width, chunk)
            return Task(prompt, method, "calibrate", context, plan.sampling, plan.stop)

        driver = Driver(self._lm, self._rm, n_slots=plan.n_slots)
        done = 0
        for _, event in driver.run(task(prompt) for prompt in prompts):
            if isinstance(event, Finished):
                done += 1
                self._on_progress(stage, done, len(prompts))
                yield event.result


def _probing(
    context: Context,
    threshold: Threshold,
    rule: TiltRule,
    segmentation: Segmentation,
    positions: list[Position],
) -> Steps:
    """STARS that scores every draw of one round a segment, and keeps the first accepted of
    them, or the best: the draws are independent of each other, whatever is kept."""
    progress = Progress(context)
    (initial,) = yield Score((progress.text,))
    while progress.finish is None:
        yield from _probe_segment(progress, threshold, rule, segmentation, initial.value, positions)
    return progress.finish


def _probe_segment(
    progress: Progress,
    threshold: Threshold,
    rule: TiltRule,
    segmentation: Segmentation,
    initial: float,
    positions: list[Position],
) -> Iterator[Request]:
    boundary = segmentation.boundary(progress.n_left)
    n = progress.context.width
    proposals: Any = yield Propose(progress.draws(0, n), boundary)
    rewards: Any = yield Score(tuple(p.extend(progress.text) for p in proposals))
    n_tokens = tuple(progress.n_tokens + p.n_tokens for p in proposals)
    ended = tuple(progress.ends(p) for p in proposals)
    positions.append(
        Position(
            progress.context.seeds.prompt_id,
            progress.n_segments,
            initial,
            tuple(reward.value for reward in rewards),
            n_tokens,
            ended,
        )
    )
    taus = [
        threshold.at(tokens, initial, segment=progress.n_segments, ended=end)
        for tokens, end in zip(n_tokens, ended, strict=True)
    ]
    verdicts = [
        rule(reward, tau, progress.uniform(i))
        for i, (reward, tau) in enumerate(zip(rewards, taus, strict=True))
    ]
    accepted = [i for i, verdict in enumerate(verdicts) if verdict.accepted]
    kept = accepted[0] if accepted else max(range(len(rewards)), key=lambda i: rewards[i].value)
    outcome = Outcome.ACCEPTED if accepted else Outcome.FORCED
    event = progress.judged(
        kept, proposals[kept], outcome, rewards[kept], taus[kept], verdicts[kept]
    )
    yield event
    yield from progress.keep(proposals[kept], event.attempt, kept + 1)


def measured(results: Sequence[Result], seed: int) -> Measured:
    """Mean attempts a segment with a bootstrap interval over prompts, and the forced share."""
    attempts = [np.array([s.n_attempts for s in result.segments], float) for result in results]
    attempts = [a for a in attempts if len(a)]
    if not attempts:
        raise CalibrationError("no segment was drawn: nothing can be measured")
    n_segments = sum(len(a) for a in attempts)
    forced = sum(s.outcome is Outcome.FORCED for r in results for s in r.segments)
    sums = np.array([a.sum() for a in attempts])
    counts = np.array([len(a) for a in attempts])
    picks = np.random.default_rng(seed).integers(0, len(sums), (2000, len(sums)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Measured(
        float(sums.sum() / n_segments),
        (float(low), float(high)),
        forced / n_segments,
        len(results),
        n_segments,
    )


def _bootstrap_law(
    positions: Sequence[Position], threshold: Threshold, beta: float, plan: Plan, n: int = 100
) -> tuple[float, float]:
    """Interval of the predicted attempts, by bootstrap over prompts."""
    by_prompt: dict[str, list[Position]] = defaultdict(list)
    for position in positions:
        by_prompt[position.prompt_id].append(position)
    groups = list(by_prompt.values())
    random = np.random.default_rng(plan.seed)
    costs = []
    for _ in range(n):
        picked = [p for i in random.integers(0, len(groups), len(groups)) for p in groups[i]]
        costs.append(AttemptsLaw(picked, plan.max_attempts).cost(threshold, beta).attempts)
    low, high = np.quantile(costs, [0.025, 0.975])
    return float(low), float(high)


def _final_reward(result: Result) -> float:
    reward = result.segments[-1].reward if result.segments else result.initial_reward
    return math.nan if reward is None else reward


def _segments_of(positions: Sequence[Position]) -> Iterator[tuple[int, list[Position]]]:
    for segment in sorted({p.segment for p in positions}):
        yield segment, [p for p in positions if p.segment == segment]


def _quantiles(positions: Sequence[Position], level: float) -> tuple[float, ...]:
    """The reward that a share of 1 - level of plain draws reaches, by segment index."""
    return tuple(
        float(np.quantile([r for p in group for r in p.rewards], level))
        for _, group in _segments_of(positions)
    )


def _by_position(positions: Sequence[Position]) -> tuple[dict[str, float], ...]:
    """Mean reward, and how its variance splits between prompts and within one."""
    rows = []
    for segment, group in _segments_of(positions):
        means = np.array([np.mean(p.rewards) for p in group])
        within = float(np.mean([np.var(p.rewards, ddof=1) for p in group]))
        noise = float(np.mean([np.var(p.rewards, ddof=1) / len(p.rewards) for p in group]))
        rows.append(
            {
                "segment": float(segment),
                "n_positions": float(len(group)),
                "mean": float(means.mean()),
                "between_variance": max(0.0, float(means.var()) - noise),
                "within_variance": within,
            }
        )
    return tuple(rows)
