"""Judges of finished answers that are no reward model, behind the same port.

`refusal` says 1.0 of a refusal and 0.0 of anything else; `logprob NAME` says how likely a
language model finds an answer. Neither says which answer is better, so neither stands for quality.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from stars_local.core.ports import RewardModel
from stars_local.core.records import ModelInfo, Prompt, Reward, RewardInfo, Scores
from stars_local.evals.refusals import PHRASES, WINDOW, is_refusal

STEERING = "steering"
REFUSAL = "refusal"
LOGPROB = "logprob"  # followed by the name of the model
_MAX_TOKENS = 2**31


class GivesLogprobs(Protocol):
    """A language model that tells the log-probability of given text; natural logarithms."""

    @property
    def info(self) -> ModelInfo: ...
    def logprobs(self, prompt: Prompt, response: str) -> Sequence[float]: ...


def rewards_of(judges: Mapping[str, RewardModel], prompt: Prompt, text: str) -> dict[str, float]:
    """What each judge says of one answer, which it is asked about alone."""
    return {name: judge.score([(prompt, text)]).rewards[0].value for name, judge in judges.items()}


def quality_judge(names: Sequence[str]) -> str | None:
    """The first of a run's judges that tells good from bad and was not steered by."""
    for name in names:
        if tells_better(name) and not is_steering(name):
            return name
    return None


def tells_better(name: str) -> bool:
    """Whether more by this judge is better: neither more nor fewer refusals are a win."""
    return not (is_logprob(name) or name.split()[0] == REFUSAL)


def is_steering(name: str) -> bool:
    """Whether a judge is a model that an arm was steered by: its rewards are optimised."""
    return name.split()[0] == STEERING


def is_logprob(name: str) -> bool:
    """Whether a judge's values are log-probabilities by token, of which perplexity is made."""
    return name.startswith(f"{LOGPROB} ")


class RefusalJudge:
    """The rules of `stars_local.evals.refusals` as a judge. Its digest is that of the rules."""

    batch_invariant = True

    @property
    def info(self) -> RewardInfo:
        """Identity of the rules."""
        rules = "\n".join((str(WINDOW), *PHRASES))
        digest = hashlib.sha256(rules.encode()).hexdigest()
        return RewardInfo(REFUSAL, digest[:8], digest, REFUSAL, (REFUSAL,), _MAX_TOKENS)

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Scores:
        """1.0 where the rules see a refusal."""
        found = [float(is_refusal(text)) for _, text in items]
        return Scores(tuple(Reward(value, {REFUSAL: value}) for value in found), 0)


class LogprobJudge:
    """The mean log-probability of an answer's tokens; exp of its negative is the perplexity.

    An answer without a token has no such mean: its value is NaN, which a line of results has as
    null, and which takes no part in means and comparisons.
    """

    batch_invariant = True

    def __init__(self, model: GivesLogprobs) -> None:
        self._model = model

    @property
    def info(self) -> RewardInfo:
        """Identity of the language model."""
        model = self._model.info
        name = f"{LOGPROB} {model.name}"
        return RewardInfo(name, model.quant, model.sha256, LOGPROB, (LOGPROB,), _MAX_TOKENS)

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Scores:
        """Nats by token, at most 0; NaN for an answer without a token."""
        rewards, n_tokens = [], []
        for prompt, text in items:
            each = self._model.logprobs(prompt, text)
            n_tokens.append(len(each))
            value = sum(each) / len(each) if each else math.nan
            rewards.append(Reward(value, {LOGPROB: value}))
        return Scores(tuple(rewards), len(items), tuple(n_tokens))
