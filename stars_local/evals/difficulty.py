"""Where an arm's tokens and seconds go: prompts in thirds, by what is known of them beforehand.

A global target r* asks the same of a prompt whose answers score low and of one whose answers
reach it anyway. What says which is which must not be a draw that an arm shares: were prompts
sorted by the plain answer, those where it was unlucky would stand in the hard third, and any other
answer would gain there (regression to the mean).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stars_local.core.plain import finite
from stars_local.evals import metrics
from stars_local.evals.judges import STEERING, is_steering, quality_judge
from stars_local.evals.records import Line

THIRDS = ("hard", "middle", "easy")
VANILLA = "vanilla"
_BEST_OF_N = "best-of-n"
_SAME = 1e-6  # of rewards of one text by one model


def by_difficulty(by_arm: Mapping[str, Sequence[Line]]) -> dict[str, Any] | None:
    """Per arm and third: prompts, attempts per segment, forced share of segments, decoded tokens
    per answer, median and 90 % quantile of seconds, and the independent judge's mean gain over
    the plain answer. None without an arm of plain answers, or with fewer than three prompts.

    `hard` are the prompts of the lowest values; `sorted_by` says in words of which: the steering
    reward of the empty answer; where no arm has it, the mean steering reward of the answers that
    a best-of-n arm drew after its first one, which the plain answer does not share; else that of
    the plain answer itself, which then is `confounded` with the gain.
    """
    name = next((arm for arm, v in by_arm.items() if v and v[0]["method"] == VANILLA), None)
    if name is None:
        return None
    plain = {line["prompt_id"]: line for line in by_arm[name]}
    values, sorted_by, confounded = _values(by_arm, name)
    ranked = sorted(set(values) & set(plain), key=lambda id: (values[id], str(id)))
    if len(ranked) < len(THIRDS):
        return None
    bounds = [round(len(ranked) * k / len(THIRDS)) for k in range(len(THIRDS) + 1)]
    judge = quality_judge(
        list(dict.fromkeys(j for line in plain.values() for j in line["rewards"]))
    )
    worth = {id: line["rewards"].get(judge) for id, line in plain.items()}
    found: dict[str, Any] = {}
    for place, third in enumerate(THIRDS):
        ids = set(ranked[bounds[place] : bounds[place + 1]])
        for arm, answers in by_arm.items():
            mine = [line for line in answers if line["prompt_id"] in ids]
            if mine:
                found.setdefault(arm, {})[third] = _third(mine, judge, worth)
    return {
        "sorted_by": sorted_by,
        "confounded": confounded,
        "baseline": name,
        "judge": judge,
        "arms": found,
    }


def _values(by_arm: Mapping[str, Sequence[Line]], plain: str) -> tuple[dict[str, float], str, bool]:
    """What prompts are sorted by, in words too, and whether the plain answer has a part in it."""
    initial = _initial(by_arm)
    if len(set(initial) & {line["prompt_id"] for line in by_arm[plain]}) >= len(THIRDS):
        return initial, "the steering reward of the empty answer, in which no arm has a part", False
    for name, answers in by_arm.items():
        others = {line["prompt_id"]: _later_draws(line) for line in answers}
        means = {id: sum(found) / len(found) for id, found in others.items() if found}
        if len(means) >= len(THIRDS):
            words = (
                f"the mean steering reward of the answers that {name} drew after its first one, in "
                f"which {plain} has no part (but {name} has, and arms that share its draws)"
            )
            return means, words, False
    words = (
        f"the steering reward of {plain}'s own answer, from which the gain is measured: where that "
        "was unlucky the prompt counts as hard, and a part of the gain there is chance"
    )
    rewards = {line["prompt_id"]: _steering(line) for line in by_arm[plain]}
    return {id: value for id, value in rewards.items() if value is not None}, words, True


def _initial(by_arm: Mapping[str, Sequence[Line]]) -> dict[str, float]:
    """r(x, "") by prompt, of the first steering model that gave it.

    Arms whose values differ from those known were steered by another model: they are left out.
    """
    known: dict[str, float] = {}
    for answers in by_arm.values():
        mine = {line["prompt_id"]: line["initial_reward"] for line in answers}
        mine = {id: value for id, value in mine.items() if value is not None}
        if all(abs(value - known.get(id, value)) <= _SAME for id, value in mine.items()):
            known = {**mine, **known}
    return known


def _later_draws(line: Line) -> list[float]:
    """The rewards of a best-of-n answer's draws but the first, which is the plain answer's."""
    if line["method"] != _BEST_OF_N:
        return []
    drawn = [a["reward"] for a in line["attempts"] if a["index"] > 0]
    return [reward for reward in drawn if reward is not None]


def _steering(line: Line) -> float | None:
    rewards: Mapping[str, float | None] = line["rewards"]
    if STEERING in rewards:
        return rewards[STEERING]
    return next((value for name, value in rewards.items() if is_steering(name)), None)


def _third(
    answers: Sequence[Line], judge: str | None, worth: Mapping[str, float | None]
) -> dict[str, Any]:
    segments = [segment for line in answers for segment in line["segments"]]
    seconds = metrics.percentiles([line["elapsed_s"] for line in answers], (0.5, 0.9))
    gains = []
    for line in answers:
        mine, before = line["rewards"].get(judge), worth[line["prompt_id"]]
        if mine is not None and before is not None:
            gains.append(mine - before)
    gain = metrics.mean(gains)
    return {
        "n": len(answers),
        "attempts": finite(metrics.mean([s["n_attempts"] for s in segments]).value),
        "forced_share": sum(s["outcome"] == "forced" for s in segments) / max(1, len(segments)),
        "n_decoded_tokens": sum(line["n_decoded_tokens"] for line in answers) / len(answers),
        "elapsed_s_p50": finite(seconds[0]),
        "elapsed_s_p90": finite(seconds[1]),
        "gain": {key: finite(getattr(gain, key)) for key in ("value", "low", "high")},
    }
