"""What a finished run amounts to: numbers by arm, and by pair of arms and judge.

The steering model's rewards are what the methods optimise; the other judges are the evidence.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from stars_local.evals import metrics
from stars_local.evals.difficulty import by_difficulty
from stars_local.evals.judges import STEERING as STEERING
from stars_local.evals.judges import is_logprob
from stars_local.evals.records import Line
from stars_local.evals.refusals import is_refusal
from stars_local.evals.verdicts import Verdict

_ENDINGS = ("eog", "stop_string")
_COUNTS = (
    "n_decoded_tokens",
    "n_kept_tokens",
    "n_rejected_tokens",
    "n_spare_tokens",
    "n_rm_calls",
    "n_rm_batches",
    "n_rm_tokens",
)


def summarise(
    lines: Sequence[Line],
    labels: Mapping[str, Mapping[str, str]] | None = None,
    *,
    margin: float = 0.0,
    verdicts: Sequence[Verdict] = (),
) -> dict[str, Any]:
    """The summary of all answers. labels: what the prompt file says of a prompt, by its id.

    margin: rewards that differ by no more than this are a tie, by every judge of single answers.
    verdicts: of judges of pairs; one that is None is counted, and takes no part otherwise.
    """
    by_arm: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_arm[line["arm"]].append(line)
    for answers in by_arm.values():
        answers.sort(key=lambda line: str(line["prompt_id"]))
    return {
        "arms": {arm: _arm(answers, labels or {}) for arm, answers in by_arm.items()},
        "difficulty": by_difficulty(by_arm),
        "pairs": [
            _pair(first, second, judge, by_arm, margin)
            for second, first in itertools.combinations(by_arm, 2)
            for judge in judges_of(lines)
        ]
        + _verdict_pairs(verdicts, by_arm),
    }


def judges_of(lines: Sequence[Line]) -> list[str]:
    """The judges that scored these lines, in order."""
    return list(dict.fromkeys(name for line in lines for name in line["rewards"]))


def _arm(answers: Sequence[Line], labels: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    segments = [list(line["segments"]) for line in answers]
    attempts = [attempt for line in answers for attempt in line["attempts"]]
    rejected = [a for a in attempts if a["outcome"] == "rejected"]
    texts = [line["text"] for line in answers]
    latency = metrics.percentiles([line["elapsed_s"] for line in answers])
    return {
        "n": len(answers),
        "rewards": {
            name: _plain(metrics.mean([line["rewards"][name] for line in answers]))
            for name in judges_of(answers)
        },
        "perplexity": {
            name: _perplexity([line["rewards"][name] for line in answers])
            for name in judges_of(answers)
            if is_logprob(name)
        },
        **{name: _mean([line[name] for line in answers]) for name in _COUNTS},
        "decoded_per_kept": _plain(
            metrics.ratio(
                [line["n_decoded_tokens"] for line in answers],
                [line["n_kept_tokens"] for line in answers],
            )
        ),
        "attempts": _plain(
            metrics.ratio(
                [sum(s["n_attempts"] for s in mine) for mine in segments],
                [len(mine) for mine in segments],
            )
        ),
        "attempts_distribution": dict(
            sorted(Counter(s["n_attempts"] for mine in segments for s in mine).items())
        ),
        "forced_share": _plain(
            metrics.ratio(
                [sum(s["outcome"] == "forced" for s in mine) for mine in segments],
                [len(mine) for mine in segments],
            )
        ),
        "tokens_per_rejection": _mean([a["n_tokens"] for a in rejected]),
        "endings_rejected_share": _share(
            [a["outcome"] == "rejected" for a in attempts if a["end"] in _ENDINGS]
        ),
        "finish_reasons": dict(Counter(line["finish_reason"] for line in answers)),
        "elapsed_s_p50": _finite(latency[0]),
        "elapsed_s_p90": _finite(latency[1]),
        "elapsed_s_p99": _finite(latency[2]),
        "n_words": _mean([len(text.split()) for text in texts]),
        "distinct_1": _finite(metrics.distinct_n(texts, 1)),
        "distinct_2": _finite(metrics.distinct_n(texts, 2)),
        "self_bleu": _finite(metrics.self_bleu(texts)),
        "refusals": _refusals(answers, labels),
        "by_segment": _by_segment(answers),
    }


def _refusals(answers: Sequence[Line], labels: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The share of refusals: of all answers, and by the label of the prompt where it has one."""
    groups: dict[str, list[float]] = defaultdict(list)
    for line in answers:
        refused = float(is_refusal(line["text"]))
        groups["all"].append(refused)
        label = labels.get(line["prompt_id"], {}).get("label")
        if label is not None:
            groups[label].append(refused)
    return {label: _plain(metrics.mean(values)) for label, values in groups.items()}


def _by_segment(answers: Sequence[Line]) -> list[dict[str, Any]]:
    """Acceptance and reward by the position of the segment."""
    judged: dict[int, list[Line]] = defaultdict(list)
    kept: dict[int, list[Line]] = defaultdict(list)
    for line in answers:
        for attempt in line["attempts"]:
            if attempt["outcome"] != "spare":
                judged[attempt["segment"]].append(attempt)
        for segment in line["segments"]:
            kept[segment["index"]].append(segment)
    return [
        {
            "segment": index,
            "n": len(kept[index]),
            "acceptance": _share([a["outcome"] == "accepted" for a in judged[index]]),
            "reward_drawn": _mean([a["reward"] for a in judged[index] if a["reward"] is not None]),
            "reward_kept": _mean([s["reward"] for s in kept[index] if s["reward"] is not None]),
            "threshold": _mean([s["threshold"] for s in kept[index] if s["threshold"] is not None]),
        }
        for index in sorted(kept)
    ]


def _pair(
    first: str, second: str, judge: str, by_arm: Mapping[str, Sequence[Line]], margin: float
) -> dict[str, Any]:
    def values(arm: str) -> dict[str, float]:
        found = {line["prompt_id"]: line["rewards"].get(judge) for line in by_arm[arm]}
        return {key: value for key, value in found.items() if value is not None}

    return _compared(first, second, judge, values(first), values(second), by_arm, margin)


def _verdict_pairs(
    verdicts: Sequence[Verdict], by_arm: Mapping[str, Sequence[Line]]
) -> list[dict[str, Any]]:
    """What judges of pairs say, in the same form; `n_inconsistent`: no verdict was reached.

    `difference` is the share of wins less that of losses.
    """
    groups: dict[tuple[str, str, str], list[Verdict]] = defaultdict(list)
    for each in verdicts:
        groups[each.first, each.second, each.judge].append(each)
    pairs = []
    for (first, second, judge), group in groups.items():
        mine = {v.prompt_id: float(v.verdict) for v in group if v.verdict is not None}
        theirs = dict.fromkeys(mine, 0.0)
        pair = _compared(first, second, judge, mine, theirs, by_arm, 0.0)
        pairs.append({**pair, "n_inconsistent": len(group) - len(mine)})
    return pairs


def _compared(
    first: str,
    second: str,
    judge: str,
    mine: Mapping[str, float],
    theirs: Mapping[str, float],
    by_arm: Mapping[str, Sequence[Line]],
    margin: float,
) -> dict[str, Any]:
    """Two arms by values of the prompts that both have."""

    def lengths(arm: str) -> dict[str, float]:
        return {line["prompt_id"]: float(len(line["text"])) for line in by_arm[arm]}

    duel = metrics.duel(mine, theirs, margin=margin)
    controlled = metrics.length_controlled_win_rate(
        mine, theirs, lengths(first), lengths(second), margin=margin
    )
    return {
        "first": first,
        "second": second,
        "judge": judge,
        "margin": margin,
        "win": _finite(duel.win.value),
        "tie": _finite(duel.tie.value),
        "loss": _finite(duel.loss.value),
        "intervals": {
            name: [_finite(each.low), _finite(each.high)]
            for name, each in (("win", duel.win), ("tie", duel.tie), ("loss", duel.loss))
        },
        "win_rate": _plain(duel.win_rate),
        "difference": _plain(duel.difference),
        "length_controlled_win_rate": _plain(controlled),
    }


def _perplexity(logprobs: Sequence[float]) -> dict[str, float | None]:
    """exp(-mean log-probability by token), the mean over answers, with its interval."""

    def perplexity(rows: metrics.Floats) -> float:
        return math.exp(-float(rows.mean()))

    return _plain(metrics.bootstrap([[value] for value in logprobs], perplexity))


def _plain(estimate: metrics.Estimate) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in dataclasses.asdict(estimate).items()}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
