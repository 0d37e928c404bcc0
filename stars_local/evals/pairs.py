"""Two arms against each other, over the prompts that both answered.

The baseline is always the second of a pair. Arms without a prompt in common (of several runs) are
no pair.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from stars_local.core.plain import finite
from stars_local.core.progress import OnProgress, silent
from stars_local.evals import metrics
from stars_local.evals.difficulty import VANILLA
from stars_local.evals.records import Line
from stars_local.evals.verdicts import Verdict

ByArm = Mapping[str, Sequence[Line]]


def baselines(by_arm: ByArm) -> list[str]:
    """What the other arms are to be compared with: the plain arms, else the first of all."""
    return [arm for arm, lines in by_arm.items() if lines[0]["method"] == VANILLA] or [*by_arm][:1]


def pairs_of(
    by_arm: ByArm,
    judges: Sequence[str],
    margin: float,
    verdicts: Sequence[Verdict],
    advance: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Every two arms by every judge of answers, then by those of pairs.

    verdicts: `n_inconsistent` counts those of a pair that are None; `difference` of the others is
    the share of wins less that of losses.
    """
    first = baselines(by_arm)
    order = [*first, *(arm for arm in by_arm if arm not in first)]
    asked = [(one, two, judge) for two, one in itertools.combinations(order, 2) for judge in judges]
    found = []
    for done, (one, two, judge) in enumerate(asked, start=1):
        mine, theirs = rewards_by_prompt(by_arm[one], judge), rewards_by_prompt(by_arm[two], judge)
        if set(mine) & set(theirs):
            found.append(_compared(one, two, judge, mine, theirs, by_arm, margin))
        advance("comparing arms", done, len(asked))
    return found + _of_verdicts(verdicts, by_arm, {arm: k for k, arm in enumerate(order)})


def rewards_by_prompt(answers: Sequence[Line], judge: str) -> dict[str, float]:
    """A judge's rewards of an arm's answers, where it gave any."""
    found = {line["prompt_id"]: line["rewards"].get(judge) for line in answers}
    return {key: value for key, value in found.items() if value is not None}


def _of_verdicts(
    verdicts: Sequence[Verdict], by_arm: ByArm, places: Mapping[str, int]
) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str], dict[str, int | None]] = defaultdict(dict)
    for each in verdicts:
        if each.first not in places or each.second not in places:
            continue
        said, one, two = each.verdict, each.first, each.second
        if places[one] < places[two]:
            said, one, two = None if said is None else -said, two, one
        groups[one, two, each.judge][each.prompt_id] = said
    pairs = []
    for (one, two, judge), group in groups.items():
        mine = {id: float(said) for id, said in group.items() if said is not None}
        pair = _compared(one, two, judge, mine, dict.fromkeys(mine, 0.0), by_arm, 0.0)
        pairs.append({**pair, "n_inconsistent": len(group) - len(mine)})
    return pairs


def _compared(
    first: str,
    second: str,
    judge: str,
    mine: Mapping[str, float],
    theirs: Mapping[str, float],
    by_arm: ByArm,
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
        "win": finite(duel.win.value),
        "tie": finite(duel.tie.value),
        "loss": finite(duel.loss.value),
        "intervals": {
            name: [finite(each.low), finite(each.high)]
            for name, each in (("win", duel.win), ("tie", duel.tie), ("loss", duel.loss))
        },
        "win_rate": plain(duel.win_rate),
        "difference": plain(duel.difference),
        "length_controlled_win_rate": plain(controlled),
    }


def plain(estimate: metrics.Estimate) -> dict[str, float | None]:
    """An estimate as JSON holds it: None for what could not be measured."""
    return {name: finite(value) for name, value in dataclasses.asdict(estimate).items()}
