"""Where an arm's tokens and seconds go: prompts in thirds, by the reward of the plain answer.

A global target r* asks the same of a prompt whose plain answers score low and of one whose
plain answers reach it anyway. The steering reward of the plain answer (one draw, so a noisy
measure) says which is which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stars_local.core.plain import finite
from stars_local.evals import metrics
from stars_local.evals.judges import STEERING, quality_judge
from stars_local.evals.records import Line

THIRDS = ("hard", "middle", "easy")
_PLAIN = "vanilla"


def by_difficulty(by_arm: Mapping[str, Sequence[Line]]) -> dict[str, Any] | None:
    """Per arm and third: prompts, attempts per segment, forced share of segments, decoded tokens
    per answer, median and 90 % quantile of seconds, and the independent judge's mean gain over
    the plain answer. None without an arm of plain answers, or with fewer than three of them.

    `hard` are the prompts whose plain answers have the lowest steering rewards.
    """
    plain = next((v for v in by_arm.values() if v and v[0]["method"] == _PLAIN), None)
    if plain is None or len(plain) < len(THIRDS):
        return None
    ranked = sorted(plain, key=lambda line: (line["rewards"][STEERING], str(line["prompt_id"])))
    bounds = [round(len(ranked) * k / len(THIRDS)) for k in range(len(THIRDS) + 1)]
    judge = quality_judge(list(plain[0]["rewards"]))
    worth = {line["prompt_id"]: line["rewards"].get(judge) for line in plain}
    found: dict[str, Any] = {}
    for place, third in enumerate(THIRDS):
        ids = {line["prompt_id"] for line in ranked[bounds[place] : bounds[place + 1]]}
        for arm, answers in by_arm.items():
            mine = [line for line in answers if line["prompt_id"] in ids]
            if mine:
                found.setdefault(arm, {})[third] = _third(mine, judge, worth)
    return found


def _third(
    answers: Sequence[Line], judge: str | None, worth: Mapping[str, float | None]
) -> dict[str, Any]:
    segments = [segment for line in answers for segment in line["segments"]]
    seconds = metrics.percentiles([line["elapsed_s"] for line in answers], (0.5, 0.9))
    gains = [
        line["rewards"][judge] - before
        for line in answers
        if judge is not None and (before := worth[line["prompt_id"]]) is not None
    ]
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
