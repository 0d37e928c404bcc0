"""Solving the threshold for a wanted cost, from measurements.

1. Plain answers (tau = -inf): several independent draws at every segment give the spread of
   rewards, by position, between prompts and within one, and a first r_star.
2. Rounds on STARS' own prefixes: the same, but the path follows the rule at the current r_star,
   since from the second segment on plain answers have the wrong prefixes. Every r_star changes
   the prefixes, and better prefixes cost fewer attempts, so that solving on the last ones falls
   short: from the second round on r_star moves along the secant of what was paid. The rounds
   end when the cost is met; the one that came closest gives r_star and is the prediction.
3. A check: STARS as it will run, on prompts that took no part, against the prediction.

alpha and beta are fixed by rule: alpha 0.8, beta 0.1 of the standard deviation of plain answers'
rewards, so that r_star is the one number that is solved for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from stars_local.calibration.law import AttemptsLaw, next_threshold, solve_threshold
from stars_local.calibration.measured import (
    final_reward,
    measured,
    quantiles_by_segment,
    variance_by_segment,
)
from stars_local.calibration.records import Calibration, CalibrationKey, Measured
from stars_local.core.acceptance import TiltRule
from stars_local.core.driver import Driver, Task
from stars_local.core.errors import CalibrationError
from stars_local.core.events import Finished
from stars_local.core.methods import Context, Segmentation, StarsParams, stars
from stars_local.core.methods.probing import Position, probing
from stars_local.core.ports import LanguageModel, RewardModel
from stars_local.core.progress import OnProgress
from stars_local.core.records import Prompt, Result, Sampling
from stars_local.core.requests import Steps
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Threshold

ALPHA = 0.8
BETA_IN_SPREADS = 0.1
CLOSE = 0.04  # a cost within 4 % of the wanted one is met: 300 prompts tell no more


@dataclass(frozen=True, slots=True)
class Plan:
    """How a calibration is made. Exactly one of `attempts` and `quantile` is given.

    n_draws: independent draws a segment. n_rounds: at most so many rounds on STARS' own
    prefixes. n_slots: prompts in lockstep.
    """

    attempts: float | None = 3.0
    quantile: float | None = None
    alpha: float = ALPHA
    beta_in_spreads: float = BETA_IN_SPREADS
    segment_size: int = 32
    max_new_tokens: int = 128
    max_attempts: int = 20
    n_draws: int = 2
    n_rounds: int = 4
    n_slots: int = 16
    width: int = 3
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


class Calibrator:
    """Runs a plan over a language model and a reward model.

    on_progress(stage, done, total) is called after every answer.
    """

    def __init__(
        self, lm: LanguageModel, rm: RewardModel, plan: Plan, on_progress: OnProgress
    ) -> None:
        if (plan.attempts is None) == (plan.quantile is None):
            raise CalibrationError("calibrate for --attempts or for --quantile, one of the two")
        self._lm = lm
        self._rm = rm
        self.plan = plan
        self._on_progress = on_progress

    def solve(self, prompts: Sequence[Prompt]) -> Outline:
        """Steps 1 and 2: find the threshold on these prompts."""
        plan = self.plan
        template = Threshold(-math.inf, plan.alpha, plan.max_new_tokens)
        plain, answers = self._probe(prompts, template, 0.0, "plain answers")
        finals = [final_reward(result) for result in answers]
        spread = float(np.std(finals))
        if not spread > 0:
            raise CalibrationError(
                f"all {len(finals)} plain answers have the same reward: nothing can be calibrated"
            )
        beta = plan.beta_in_spreads * spread
        threshold = self._first(plain, template, beta, finals)
        if plan.attempts is None:
            stage = "STARS' own prefixes"
            predicted = measured(self._probe(prompts, threshold, beta, stage)[1], plan.seed)
        else:
            threshold, predicted = self._rounds(prompts, threshold, beta, spread, plan.attempts)
        return Outline(
            threshold,
            beta,
            spread,
            AttemptsLaw(plain, plan.max_attempts).within,
            quantiles_by_segment(plain, 1.0 - 1.0 / max(predicted.attempts, 1.01)),
            variance_by_segment(plain),
            predicted,
        )

    def check(self, prompts: Sequence[Prompt], outline: Outline) -> tuple[Measured, list[Result]]:
        """Step 3: STARS as it will run, on prompts that took no part."""
        params = StarsParams(
            outline.threshold,
            TiltRule(outline.beta),
            Segmentation(self.plan.segment_size),
            self.plan.max_attempts,
        )
        results = list(self._answers(prompts, lambda c: stars(c, params), "check", self.plan.width))
        return measured(results, self.plan.seed), results

    def plain_answers(self, prompts: Sequence[Prompt], n: int) -> list[Result]:
        """`n` plain answers to each prompt, rewards by segment; `prompt_id` ends in `#i`."""
        params = StarsParams(
            Threshold(-math.inf, self.plan.alpha, self.plan.max_new_tokens),
            TiltRule(0.0),
            Segmentation(self.plan.segment_size),
            1,
        )
        copies = [replace(prompt, id=f"{prompt.id}#{i}") for prompt in prompts for i in range(n)]
        return list(self._answers(copies, lambda c: stars(c, params), "plain answers", 1))

    def _first(
        self,
        plain: Sequence[Position],
        template: Threshold,
        beta: float,
        finals: Sequence[float],
    ) -> Threshold:
        """The threshold that plain answers suggest."""
        plan = self.plan
        if plan.attempts is None:
            share = 0.5 if plan.quantile is None else plan.quantile
            return replace(template, r_star=float(np.quantile(finals, share)))
        law = AttemptsLaw(plain, plan.max_attempts)
        r_star = solve_threshold(law, template, beta, plan.attempts, plan.max_attempts)
        return replace(template, r_star=r_star)

    def _rounds(
        self,
        prompts: Sequence[Prompt],
        threshold: Threshold,
        beta: float,
        spread: float,
        wanted: float,
    ) -> tuple[Threshold, Measured]:
        """The threshold of the round that came closest to the wanted cost, and its cost."""
        plan = self.plan
        rounds: list[tuple[Threshold, Measured]] = []
        for n in range(plan.n_rounds):
            stage = f"round {n + 1} of {plan.n_rounds} on STARS' own prefixes"
            positions, results = self._probe(prompts, threshold, beta, stage)
            rounds.append((threshold, measured(results, plan.seed)))
            if _miss(rounds[-1][1], wanted) < CLOSE or n + 1 == plan.n_rounds:
                break
            law = AttemptsLaw(positions, plan.max_attempts)
            nearest = solve_threshold(law, threshold, beta, wanted, plan.max_attempts)
            paid = [(tried.r_star, cost.attempts) for tried, cost in rounds]
            # one segment has no prefix of its own, so that the law's solution holds as it is
            stretch = 2.0 if any(p.segment > 0 for p in positions) else 1.0
            r_star = next_threshold(paid, wanted, nearest, spread, stretch)
            threshold = replace(threshold, r_star=r_star)
        return min(rounds, key=lambda each: _miss(each[1], wanted))

    def _probe(
        self, prompts: Sequence[Prompt], threshold: Threshold, beta: float, stage: str
    ) -> tuple[list[Position], list[Result]]:
        """Answers whose every segment was drawn `n_draws` times, and the draws' rewards."""
        positions: list[Position] = []
        rule = TiltRule(beta)
        segmentation = Segmentation(self.plan.segment_size)

        def method(context: Context) -> Steps:
            return probing(
                context, threshold, rule, segmentation, self.plan.max_attempts, positions
            )

        results = list(self._answers(prompts, method, stage, self.plan.n_draws))
        return [p for p in positions if len(p.rewards) > 1], results

    def _answers(
        self,
        prompts: Sequence[Prompt],
        method: Callable[[Context], Steps],
        stage: str,
        width: int,
    ) -> Iterator[Result]:
        plan = self.plan
        chunk = 0 if self._rm.batch_invariant else 1

        def task(prompt: Prompt) -> Task:
            seeds = SeedSource(plan.seed, prompt.id)
            context = Context(seeds, plan.max_new_tokens, "", width, chunk)
            return Task(prompt, method, "calibrate", context, plan.sampling, plan.stop)

        driver = Driver(self._lm, self._rm, n_slots=plan.n_slots)
        done = 0
        with closing(driver.run(task(prompt) for prompt in prompts)) as events:
            for _, event in events:
                if isinstance(event, Finished):
                    done += 1
                    self._on_progress(stage, done, len(prompts))
                    yield event.result


def _miss(cost: Measured, wanted: float) -> float:
    """How far a measured cost lies from the wanted one, as a share of it."""
    return abs(math.log(cost.attempts / wanted))


def calibrate_pair(
    calibrator: Calibrator,
    key: CalibrationKey,
    prompts: Sequence[Prompt],
    checks: Sequence[Prompt],
    *,
    quick: bool,
    made: dict[str, str],
) -> Calibration:
    """Solve on `prompts`, check on `checks` (none: no check), and write the evidence down.

    Raises CalibrationError if a prompt stands in both.
    """
    plan = calibrator.plan
    asked, also = ({(p.messages, p.text) for p in each} for each in (prompts, checks))
    shared = asked & also
    if shared:
        raise CalibrationError(
            f"{len(shared)} prompts stand in both sets: check on prompts that took no part"
        )
    outline = calibrator.solve(prompts)
    checked = calibrator.check(checks, outline)[0] if checks else None
    wanted = (
        f"attempts {plan.attempts:g}" if plan.attempts is not None else f"quantile {plan.quantile}"
    )
    return Calibration(
        key,
        alpha=plan.alpha,
        beta=outline.beta,
        reward_threshold=outline.threshold.r_star,
        quantiles=outline.quantiles,
        spread=outline.spread,
        within_spread=outline.within_spread,
        max_new_tokens=plan.max_new_tokens,
        max_attempts=plan.max_attempts,
        wanted=wanted,
        quick=quick,
        predicted=outline.predicted,
        checked=checked,
        by_position=outline.by_position,
        made=made,
    )
