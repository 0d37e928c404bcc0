"""Exact laws of small models, and the machinery that runs methods on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from scipy.stats import chi2

from stars_local.core.acceptance import log_probability
from stars_local.core.boundaries import Boundary
from stars_local.core.doubles import EnumerableModel, TableReward
from stars_local.core.driver import Driver, Task
from stars_local.core.events import Event, Finished
from stars_local.core.methods import Context
from stars_local.core.records import Prompt, Result, Scores
from stars_local.core.requests import Steps
from stars_local.core.seeds import SeedSource
from stars_local.core.thresholds import Threshold

Method = Callable[[Context], Steps]


def letters_model(*, max_branches: int = 256, n_ctx: int = 4096) -> EnumerableModel:
    """Three letters and an end; the odds lean on the last letter drawn, and on the position."""

    def distribution(ids: tuple[int, ...]) -> tuple[float, ...]:
        end = 0.08 if ids else 0.02
        lean = {0: (0.5, 0.3, 0.2), 1: (0.1, 0.6, 0.3), 2: (0.35, 0.05, 0.6)}
        odds = lean[ids[-1]] if ids and ids[-1] in lean else (0.3, 0.4, 0.3)
        return (*(share * (1 - end) for share in odds), end)

    return EnumerableModel("abc", distribution, n_ctx=n_ctx, max_branches=max_branches)


class Gated(TableReward):
    """A table's rewards under a gate that only some texts pass."""

    def __init__(self, value: Callable[[str], float], passes: Callable[[str], bool]) -> None:
        super().__init__(value)
        self._passes = passes

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Scores:
        """The rewards, each with whether its text passes."""
        plain = super().score(items)
        pairs = zip(plain.rewards, items, strict=True)
        found = tuple(replace(each, passed=self._passes(text)) for each, (_, text) in pairs)
        return replace(plain, rewards=found)


def letters_value(text: str) -> float:
    """Likes a and dislikes c, early ones more; not monotone in length."""
    worth = {"a": 0.9, "b": 0.1, "c": -0.8}
    return sum(worth.get(char, 0.0) / (1 + place / 4) for place, char in enumerate(text))


def letters_reward() -> TableReward:
    """The letters' values as a reward model."""
    return TableReward(letters_value)


@dataclass(frozen=True)
class Law:
    """The law of the first kept segment under rejection sampling with a cap and `force=last`
    or `best`: probabilities of each segment, accepted or forced, and of the attempts."""

    accepted: dict[tuple[int, ...], float]
    proposal: dict[tuple[int, ...], float]
    z: float
    max_attempts: int

    @property
    def forced_share(self) -> float:
        """(1 - Z)^max_attempts."""
        return (1 - self.z) ** self.max_attempts

    def attempts(self) -> dict[int, float]:
        """P(attempts judged = n): geometric in Z, truncated at the cap."""
        law = {n: (1 - self.z) ** (n - 1) * self.z for n in range(1, self.max_attempts)}
        law[self.max_attempts] = (1 - self.z) ** (self.max_attempts - 1)
        return law


def first_segment_law(
    model: EnumerableModel,
    reward: TableReward,
    threshold: Threshold,
    beta: float,
    boundary: Boundary,
    max_attempts: int,
) -> Law:
    """pi(s) min(1, exp((r(s) - tau(s)) / beta)) / Z, by enumeration."""
    import math

    prompt = Prompt("law", text="x")
    initial = reward.score([(prompt, "")]).rewards[0].value
    proposal = model.segments((), boundary)
    weighted = {}
    for ids, share in proposal.items():
        value = reward.score([(prompt, model.text(ids))]).rewards[0].value
        tau = threshold.at(len(ids), initial, ended=ids[-1] == model.eog)
        weighted[ids] = share * math.exp(log_probability(value, tau, beta))
    z = sum(weighted.values())
    return Law({ids: w / z for ids, w in weighted.items()}, proposal, z, max_attempts)


def answer(
    model: EnumerableModel,
    reward: TableReward,
    method: Method,
    *,
    seed: int = 0,
    prompt_id: str = "p",
    max_new_tokens: int = 12,
    width: int = 1,
    score_chunk: int = 0,
    **limits: float,
) -> Result:
    """Run one answer to its end."""
    events = run_events(
        model, reward, method, seed, prompt_id, max_new_tokens, width, score_chunk, **limits
    )
    last = list(events)[-1]
    if not isinstance(last, Finished):
        raise TypeError(f"the last event is {last!r}")
    return last.result


def run_events(
    model: EnumerableModel,
    reward: TableReward,
    method: Method,
    seed: int = 0,
    prompt_id: str = "p",
    max_new_tokens: int = 12,
    width: int = 1,
    score_chunk: int = 0,
    stop: tuple[str, ...] = (),
    **limits: float,
) -> Iterable[Event]:
    """The events of one answer."""
    context = Context(SeedSource(seed, prompt_id), max_new_tokens, "", width, score_chunk)
    task = Task(
        Prompt(prompt_id, text="x"),
        method,
        "m",
        context,
        stop=stop,
        **limits,  # type: ignore[arg-type]
    )
    return Driver(model, reward).stream(task)


def g_test(observed: dict[object, int], expected: dict[object, float]) -> float:
    """p-value of a chi-square test of counts against probabilities; rare cells are pooled."""
    total = sum(observed.values())
    unknown = [key for key in observed if expected.get(key, 0.0) <= 0.0]
    if unknown:
        return 0.0
    cells: list[tuple[float, float]] = []
    pooled_seen = pooled_wanted = 0.0
    for key, share in expected.items():
        seen, wanted = observed.get(key, 0), share * total
        if wanted < 5:
            pooled_seen, pooled_wanted = pooled_seen + seen, pooled_wanted + wanted
        else:
            cells.append((seen, wanted))
    if pooled_wanted >= 5 or not cells:
        cells.append((pooled_seen, pooled_wanted))
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells if wanted > 0)
    return float(chi2.sf(statistic, max(1, len(cells) - 1)))
