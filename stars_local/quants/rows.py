"""A file's row of a comparison: what its answers amount to, against the reference's.

Arms of a file: `vanilla`; `stars` at the reference's thresholds; `stars-own` at thresholds
calibrated for the file; `apart`, vanilla under another seed, for the two-sample test only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stars_local.core.plain import finite
from stars_local.evals import metrics
from stars_local.evals.pairs import rewards_by_prompt
from stars_local.evals.records import Line
from stars_local.evals.summary import judges_of, summarise
from stars_local.evals.tables import interval, number
from stars_local.quants.recovery import recovery
from stars_local.quants.twosample import two_sample

VANILLA, STARS, OWN, APART = "vanilla", "stars", "stars-own", "apart"
_KEPT = (
    "n",
    "rewards",
    "refusals",
    "attempts",
    "forced_share",
    "n_decoded_tokens",
    "n_kept_tokens",
    "elapsed_s_p50",
)
Point = tuple[float, float, str, str]
Labels = Mapping[str, Mapping[str, str]]


def answers_row(lines: Sequence[Line], reference: Sequence[Line], labels: Labels) -> dict[str, Any]:
    """The alignment figures of a file's lines; `reference`: the reference's own lines.

    win_rate and difference: of an arm and the reference's plain answers, by judge, ties half;
    difference_stars: of a STARS arm and the reference's `stars`. recovery: by judge, of both
    STARS arms. lost_both: the same loss with both plain draws of the file, since the one draw in
    which `recovery` finds a loss is also where its gain starts from. reaches: at how many decoded
    tokens an answer an arm's mean reward comes up to the reference's arms.
    """
    arms = summarise(lines, labels)["arms"]
    base = {judge: values(reference, VANILLA, judge) for judge in judges_of(lines)}
    row: dict[str, Any] = {}
    for name in (VANILLA, STARS, OWN):
        if name not in arms:
            continue
        row[name] = {key: arms[name][key] for key in _KEPT}
        duels = {j: metrics.duel(values(lines, name, j), base[j]) for j in base}
        row[name]["win_rate"] = {j: plain(asdict(each.win_rate)) for j, each in duels.items()}
        row[name]["difference"] = _differences(duels)
        if name != VANILLA:
            duels = {
                j: metrics.duel(values(lines, name, j), values(reference, STARS, j)) for j in base
            }
            row[name]["difference_stars"] = _differences(duels)
    row["recovery"] = {
        name: {
            judge: plain(
                asdict(
                    recovery(base[judge], values(lines, VANILLA, judge), values(lines, name, judge))
                )
            )
            for judge in base
        }
        for name in (STARS, OWN)
        if name in row
    }
    row["reaches"] = {
        name: {judge: _reaches(row, name, judge, lines, reference) for judge in base}
        for name in (STARS, OWN)
        if name in row
    }
    both = {judge: _mean_of_draws(lines, judge) for judge in base}
    row["lost_both"] = _differences({j: metrics.duel(base[j], both[j]) for j in base})
    apart = texts(lines, APART)
    theirs = texts(reference, VANILLA)
    shared = sorted(set(apart) & set(theirs))
    row["two_sample"] = (
        plain(asdict(two_sample([apart[k] for k in shared], [theirs[k] for k in shared])))
        if len(shared) > 2
        else None
    )
    return row


def _differences(duels: Mapping[str, metrics.Duel]) -> dict[str, Any]:
    return {judge: plain(asdict(each.difference)) for judge, each in duels.items()}


def _reaches(
    row: Mapping[str, Any], name: str, judge: str, lines: Sequence[Line], reference: Sequence[Line]
) -> dict[str, Any]:
    """At how many decoded tokens an answer an arm comes up to the reference's arms: None where
    its mean reward lies below theirs."""
    mine = metrics.mean(list(values(lines, name, judge).values())).value
    tokens = row[name]["n_decoded_tokens"]
    found = {}
    for other in (VANILLA, STARS):
        theirs = list(values(reference, other, judge).values())
        reached = bool(theirs) and mine >= sum(theirs) / len(theirs)
        found[other] = tokens if reached else None
    return found


def _mean_of_draws(lines: Sequence[Line], judge: str) -> dict[str, float]:
    """Rewards of plain answers by prompt id, a mean over both seeds where both have one."""
    once, again = values(lines, VANILLA, judge), values(lines, APART, judge)
    return {key: (once[key] + again[key]) / 2 if key in again else once[key] for key in once}


def values(lines: Sequence[Line], arm: str, judge: str) -> dict[str, float]:
    """Finite rewards of an arm by prompt id."""
    return rewards_by_prompt([line for line in lines if line["arm"] == arm], judge)


def texts(lines: Sequence[Line], arm: str) -> dict[str, str]:
    """Answers of an arm by prompt id."""
    return {line["prompt_id"]: line["text"] for line in lines if line["arm"] == arm}


def plain(value: Any) -> Any:
    """JSON values: what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, float):
        return finite(value)
    return value


def advice(rows: Sequence[Mapping[str, Any]], judge: str) -> str:
    """One line: the smallest file that these prompts show no loss of, and why; what its text
    shows is said beside it.

    rows: the reference first. A loss is a paired interval of the reward (`judge`'s) that lies
    below zero.
    """
    whole = [row for row in rows[1:] if "error" not in row]
    if not whole:
        return "nothing could be compared"
    found = [row[VANILLA]["difference"][judge] for row in whole]
    if any(each["low"] is None or each["high"] is None for each in found):
        return f"nothing to advise: {judge} gave some files' answers no reward"
    lossy = [row for row, each in zip(whole, found, strict=True) if each["high"] < 0]
    if not lossy and all(each["low"] <= 0 for each in found):
        smallest = min(whole, key=lambda row: row["size_bytes"])
        return (
            f"no difference that these prompts can show in {judge} reward: {smallest['name']} is "
            f"the smallest file, {_fidelity(smallest)}"
        )
    fine = [row for row in whole if row not in lossy]
    if not fine:
        return f"every file loses {judge} reward against {rows[0]['name']}: keep that one"
    best = min(fine, key=lambda row: row["size_bytes"])
    others = ", ".join(row["name"] for row in lossy)
    return (
        f"run {best['name']}: the smallest file without a loss in {judge} reward beyond its "
        f"interval, {_fidelity(best)}{f'; {others} lost some' if others else ''}"
    )


def _fidelity(row: Mapping[str, Any]) -> str:
    """What rewards may not show; few prompts show little."""
    return (
        f"with {interval(row['ppl_ratio'])} times the reference's perplexity and a mean KL "
        f"divergence of {number(row['kl']['mean']['value'], 3)}"
    )


def pareto(rows: Sequence[Mapping[str, Any]], judge: str) -> list[dict[str, Any]]:
    """The front of mean reward against median seconds an answer: what no other file and arm
    beats in both, from the quickest up."""
    points = []
    for row in (row for row in rows if "error" not in row):
        for arm in (VANILLA, STARS, OWN):
            if arm in row:
                seconds, reward = row[arm]["elapsed_s_p50"], row[arm]["rewards"][judge]["value"]
                if seconds is not None and reward is not None:
                    points.append((seconds, reward, row["name"], arm))
    names = ("seconds", "reward", "name", "arm")
    return [dict(zip(names, point, strict=True)) for point in front(points)]


def front(points: Sequence[Point]) -> list[Point]:
    """The (seconds, reward, file, arm) that no other beats in both, from the quickest up."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept
