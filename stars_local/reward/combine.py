"""Several axes as one reward, and gates that must pass whatever the sum.

    value = sum over terms of weight * axis,   axes in units of their own spread
    passed = every gate's axis is at least its bound

A specification of what to steer by:

    hh-minilm                      a model: its first axis
    path/to/folder                 the same, from a folder
    harmless=0.7,helpful=0.3       weighted axes of the default model
    hh-minilm:helpful=1,other:reward=0.5      axes of several models
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stars_local.core.errors import UsageError
from stars_local.core.ports import RewardModel
from stars_local.core.records import Prompt, Reward, RewardInfo, Scores

_AXIS = r"[A-Za-z][A-Za-z0-9_-]*"
_TERM = re.compile(rf"(?:(?P<model>.+):)?(?P<axis>{_AXIS})=(?P<weight>[^=]*)")
_GATE = re.compile(rf"(?:(?P<model>.+):)?(?P<axis>{_AXIS})\s*>=\s*(?P<bound>.*)")


@dataclass(frozen=True, slots=True)
class Term:
    """An axis and its weight; `model` is None for the default model."""

    model: str | None
    axis: str
    weight: float


@dataclass(frozen=True, slots=True)
class Gate:
    """An axis and the least value, in spreads, that every accepted segment must have."""

    model: str | None
    axis: str
    bound: float


def parse_reward(spec: str) -> str | tuple[Term, ...]:
    """The name or folder of a model, or the weighted axes; UsageError says what is wrong."""
    if "=" not in spec:
        if not spec.strip():
            raise UsageError("--reward is empty: give a name, a folder or AXIS=WEIGHT,...")
        return spec
    terms = []
    for part in spec.split(","):
        match = _TERM.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"--reward {spec!r}: {part!r} is not AXIS=WEIGHT or MODEL:AXIS=WEIGHT")
        weight = _number(match["weight"])
        if weight is None:
            raise UsageError(f"--reward {spec!r}: the weight of {match['axis']} must be a number")
        terms.append(Term(match["model"], match["axis"], weight))
    doubled = [(t.model, t.axis) for t in terms]
    for term in terms:
        if doubled.count((term.model, term.axis)) > 1:
            raise UsageError(f"--reward {spec!r}: {term.axis} stands there twice")
    if all(term.weight == 0 for term in terms):
        raise UsageError(f"--reward {spec!r}: all weights are 0, nothing would be steered")
    return tuple(terms)


def parse_gate(text: str) -> Gate:
    """Read ``AXIS>=VALUE`` or ``MODEL:AXIS>=VALUE``; UsageError says what is wrong."""
    match = _GATE.fullmatch(text.strip())
    bound = None if match is None else _number(match["bound"])
    if match is None or bound is None:
        raise UsageError(f"--gate {text!r}: expected AXIS>=VALUE, such as 'harmless>=-0.5'")
    return Gate(match["model"], match["axis"], bound)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class CombinedReward:
    """A reward model over others: weighted axes and gates, all of them in `Reward.axes`.

    models: by the name that terms and gates use (None: the default model). An axis is called
    by its own name, or ``model:axis`` where two models have one of that name. Every model's
    rewards must carry all its axes. UsageError names an axis that a model does not have.
    """

    def __init__(
        self,
        models: Mapping[str | None, RewardModel],
        terms: Sequence[Term],
        gates: Sequence[Gate] = (),
    ) -> None:
        self._models = dict(models)
        self._terms, self._gates = tuple(terms), tuple(gates)
        parts: dict[tuple[str | None, str], None] = {}
        for model, axis in [(term.model, term.axis) for term in terms] + [
            (gate.model, gate.axis) for gate in gates
        ]:
            self._check_axis(model, axis)
            parts[model, axis] = None
        names = [axis for _, axis in parts]
        self._keys = {
            (model, axis): axis
            if names.count(axis) == 1
            else f"{self._models[model].info.name}:{axis}"
            for model, axis in parts
        }

    @property
    def models(self) -> tuple[RewardModel, ...]:
        """The models underneath, each once."""
        return tuple(self._models.values())

    @property
    def info(self) -> RewardInfo:
        """Names joined by +; `axis` says the weights, `sha256` is over the models' own."""
        infos = [model.info for model in self._models.values()]
        joined = "".join(info.sha256 for info in infos)
        sha256 = hashlib.sha256(joined.encode()).hexdigest() if len(infos) > 1 else joined
        return RewardInfo(
            "+".join(info.name for info in infos),
            "+".join(info.revision for info in infos),
            sha256,
            self._steered(),
            tuple(self._keys.values()),
            min(info.max_tokens for info in infos),
        )

    @property
    def provider(self) -> str:
        """What runs every network, cpu where they differ."""
        found = {getattr(model, "provider", "cpu") for model in self._models.values()}
        return found.pop() if len(found) == 1 else "cpu"

    @property
    def batch_invariant(self) -> bool:
        """Whether this holds for every model."""
        return all(model.batch_invariant for model in self._models.values())

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Scores:
        """Score with every model; costs are summed."""
        scores = {name: model.score(items) for name, model in self._models.items()}
        rewards = []
        for place in range(len(items)):
            found = {part: scores[part[0]].rewards[place].axes[part[1]] for part in self._keys}
            value = sum(term.weight * found[term.model, term.axis] for term in self._terms)
            passed = all(found[gate.model, gate.axis] >= gate.bound for gate in self._gates)
            axes = {self._keys[part]: value for part, value in found.items()}
            rewards.append(Reward(value, axes, passed))
        return Scores(
            tuple(rewards),
            sum(each.n_batches for each in scores.values()),
            tuple(map(sum, zip(*(each.n_tokens for each in scores.values()), strict=True))),
        )

    def _steered(self) -> str:
        """The weights in one spelling, and the gates; an axis of weight 1 alone is its name."""
        parts = [(self._keys[term.model, term.axis], term.weight) for term in self._terms]
        single = len(parts) == 1 and parts[0][1] == 1
        summed = parts[0][0] if single else ",".join(f"{name}={w:g}" for name, w in parts)
        gates = sorted(f"{self._keys[g.model, g.axis]}>={g.bound:g}" for g in self._gates)
        return "; ".join((summed, *gates))

    def _check_axis(self, model: str | None, axis: str) -> None:
        info = self._models[model].info
        if axis in info.axes:
            return
        close = difflib.get_close_matches(axis, info.axes, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UsageError(
            f"the reward model {info.name} has no axis {axis!r}{hint}: "
            f"it has {', '.join(info.axes)}"
        )


def digests_of(model: RewardModel) -> set[str]:
    """The sha256 of a model, and of every model that it combines."""
    parts = model.models if isinstance(model, CombinedReward) else ()
    return {model.info.sha256, *(each.info.sha256 for each in parts)}
