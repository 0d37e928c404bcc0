"""What a finished run amounts to: numbers by arm, and by pair of arms and judge.

The steering model's rewards are what the methods optimise; the other judges are the evidence.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stars_local.core.plain import finite
from stars_local.core.progress import OnProgress, silent
from stars_local.evals import metrics
from stars_local.evals.closeness import closeness
from stars_local.evals.difficulty import by_difficulty
from stars_local.evals.judges import is_logprob
from stars_local.evals.lengths import by_length
from stars_local.evals.pairs import baselines, pairs_of, plain
from stars_local.evals.records import SUMMARY, Line, write_atomically
from stars_local.evals.refusals import is_refusal
from stars_local.evals.verdicts import Verdict

_ENDINGS = ("eog", "stop_string")
_SPARE = "spare"  # drawn beside the winner, and never looked at
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
    params: Mapping[str, Mapping[str, Any]] | None = None,
    advance: OnProgress = silent,
) -> dict[str, Any]:
    """The summary of all answers, of which there is at least one.

    labels: what the prompt file says of a prompt, by its id. margin: rewards that differ by no
    more than this are a tie, by every judge of single answers. verdicts: of judges of pairs; one
    that is None is counted, and takes no part otherwise. params: what the manifest records of an
    arm. advance: told of what is done, in stages.
    """
    by_arm: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_arm[line["arm"]].append(line)
    for answers in by_arm.values():
        answers.sort(key=lambda line: str(line["prompt_id"]))
    arms = {}
    for done, (arm, answers) in enumerate(by_arm.items(), start=1):
        model = _model((params or {}).get(arm, {}))
        arms[arm] = {"model": model, **_arm(answers, labels or {})}
        advance("summing up arms", done, len(by_arm))
    judges = judges_of(lines)
    return {
        "arms": arms,
        "baselines": baselines(by_arm),
        "lengths": by_length(by_arm),
        "difficulty": by_difficulty(by_arm),
        "closeness": closeness(by_arm, judges),
        "pairs": pairs_of(by_arm, judges, margin, verdicts, advance),
    }


def sum_up(
    out: Path,
    lines: Sequence[Line],
    run: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    margin: float,
) -> dict[str, Any]:
    """The summary of a run, written to its folder. run: what its manifest says of it."""
    summary = summarise(
        lines, run.get("labels"), margin=margin, verdicts=verdicts, params=run["arms"]
    )
    write_atomically(out / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return summary


def _model(params: Mapping[str, Any]) -> str | None:
    """Which language model drew an arm: 12 digits of its SHA-256, and its adapters if any."""
    digest, adapters = params.get("model_sha256"), params.get("adapters", "{}")
    if digest is None:
        return None
    return str(digest)[:12] + ("" if adapters == "{}" else f" with {adapters}")


def judges_of(lines: Sequence[Line]) -> list[str]:
    """The judges that scored these lines, in order."""
    return list(dict.fromkeys(name for line in lines for name in line["rewards"]))


def _arm(answers: Sequence[Line], labels: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    segments = [list(line["segments"]) for line in answers]
    attempts = [attempt for line in answers for attempt in line["attempts"]]
    examined = [a for a in attempts if a["outcome"] != _SPARE]
    rejected = [a for a in attempts if a["outcome"] == "rejected"]
    rewards = {name: _rewards(answers, name) for name in judges_of(answers)}
    texts = [line["text"] for line in answers]
    latency = metrics.percentiles([line["elapsed_s"] for line in answers])
    return {
        "method": answers[0]["method"],
        "n": len(answers),
        "rewards": {name: plain(metrics.mean(values)) for name, values in rewards.items()},
        "perplexity": {
            name: _perplexity(values) for name, values in rewards.items() if is_logprob(name)
        },
        **{name: _mean([line[name] for line in answers]) for name in _COUNTS},
        "decoded_per_kept": plain(
            metrics.ratio(
                [line["n_decoded_tokens"] for line in answers],
                [line["n_kept_tokens"] for line in answers],
            )
        ),
        "attempts": plain(
            metrics.ratio(
                [sum(s["n_attempts"] for s in mine) for mine in segments],
                [len(mine) for mine in segments],
            )
        ),
        "attempts_distribution": dict(
            sorted(Counter(s["n_attempts"] for mine in segments for s in mine).items())
        ),
        "forced_share": plain(
            metrics.ratio(
                [sum(s["outcome"] == "forced" for s in mine) for mine in segments],
                [len(mine) for mine in segments],
            )
        ),
        "tokens_per_rejection": _mean([a["n_tokens"] for a in rejected]),
        "endings_rejected_share": _share(
            [a["outcome"] == "rejected" for a in examined if a["end"] in _ENDINGS]
        ),
        "wall_s": _wall_s(answers),
        "finish_reasons": dict(Counter(line["finish_reason"] for line in answers)),
        "elapsed_s_p50": finite(latency[0]),
        "elapsed_s_p90": finite(latency[1]),
        "elapsed_s_p99": finite(latency[2]),
        "n_words": _mean([len(text.split()) for text in texts]),
        "distinct_1": finite(metrics.distinct_n(texts, 1)),
        "distinct_2": finite(metrics.distinct_n(texts, 2)),
        "self_bleu": finite(metrics.self_bleu(texts)),
        "refusals": _refusals(answers, labels),
        "by_segment": _by_segment(answers),
    }


def _rewards(answers: Sequence[Line], judge: str) -> list[float]:
    found = [line["rewards"].get(judge) for line in answers]
    return [value for value in found if value is not None]


def _wall_s(answers: Sequence[Line]) -> float:
    """Seconds that an arm took: a cohort, drawn together, takes as long as its slowest answer."""
    slowest: dict[Any, float] = defaultdict(float)
    for line in answers:
        slowest[line["cohort"]] = max(slowest[line["cohort"]], line["elapsed_s"])
    return sum(slowest.values())


def _refusals(answers: Sequence[Line], labels: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The share of refusals: of all answers, and by the label of the prompt where it has one."""
    groups: dict[str, list[float]] = defaultdict(list)
    for line in answers:
        refused = float(is_refusal(line["text"]))
        groups["all"].append(refused)
        label = labels.get(line["prompt_id"], {}).get("label")
        if label is not None:
            groups[label].append(refused)
    return {label: plain(metrics.mean(values)) for label, values in groups.items()}


def _by_segment(answers: Sequence[Line]) -> list[dict[str, Any]]:
    """Acceptance and reward by the position of the segment."""
    judged: dict[int, list[Line]] = defaultdict(list)
    kept: dict[int, list[Line]] = defaultdict(list)
    for line in answers:
        for attempt in line["attempts"]:
            if attempt["outcome"] != _SPARE:
                judged[attempt["segment"]].append(attempt)
        for segment in line["segments"]:
            kept[segment["index"]].append(segment)
    return [
        {
            "segment": index,
            "n": len(kept[index]),
            "n_judged": len(judged[index]),
            "acceptance": _share([a["outcome"] == "accepted" for a in judged[index]]),
            "reward_drawn": _mean([a["reward"] for a in judged[index] if a["reward"] is not None]),
            "reward_kept": _mean([s["reward"] for s in kept[index] if s["reward"] is not None]),
            "threshold": _mean([s["threshold"] for s in kept[index] if s["threshold"] is not None]),
        }
        for index in sorted(kept)
    ]


def _perplexity(logprobs: Sequence[float]) -> dict[str, float | None]:
    """exp(-mean log-probability by token), the mean over answers, with its interval."""

    def perplexity(rows: metrics.Floats) -> float:
        return math.exp(-float(rows.mean()))

    return plain(metrics.bootstrap([[value] for value in logprobs], perplexity))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
