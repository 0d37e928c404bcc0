"""What a report says, and in which order, whatever form it takes."""

from __future__ import annotations

from dataclasses import dataclass

from stars_local.evals.closeness import MARGIN
from stars_local.evals.facts import n_wanted, run_table
from stars_local.evals.joined import Joined
from stars_local.evals.judges import STEERING
from stars_local.evals.profiles import (
    attempts_table,
    lengths_table,
    positions_table,
    thirds_table,
)
from stars_local.evals.tables import (
    Summary,
    Table,
    arms_table,
    closeness_table,
    cost_table,
    pairs_table,
    shown,
    texts_table,
)

_CLOSE = (
    f"Close: behind by no more than {MARGIN:g} of the spread of answers to one prompt, by the "
    "whole interval. The spread is that of the pair's differences over the square root of 2."
)
_MAX_OPEN = 20  # rows of pairs that stand there unfolded


@dataclass(frozen=True, slots=True)
class Section:
    """A table with its title and what must be known to read it. folded: shown when asked for."""

    title: str
    table: Table
    note: str = ""
    folded: bool = False


def sections(joined: Joined, summary: Summary, judge: str | None) -> list[Section]:
    """All tables. judge: whose rewards stand for quality; None where the steering model's do."""
    scores = STEERING if judge is None else judge
    found = [
        Section("Run", run_table(joined.manifests, joined.n_answers)),
        Section("Arms", arms_table(summary), _seconds(joined)),
    ]
    pairs = summary["pairs"]
    against = pairs_table([pair for pair in pairs if pair["second"] in summary["baselines"]])
    others = pairs_table([pair for pair in pairs if pair["second"] not in summary["baselines"]])
    if len(against) > 1:
        found.append(Section(f"Pairs against {', '.join(summary['baselines'])}", against))
    found += [
        Section("Cost", cost_table(summary), "Tokens, calls and batches are means per answer."),
        Section("Texts", texts_table(summary), "More or fewer of these is no merit by itself."),
        Section("Attempts", attempts_table(summary), "Shares of the segments that took so many."),
        Section(
            "By segment position",
            positions_table(summary),
            "Share of judged attempts that were accepted, and mean reward of the kept segments by "
            f"{shown(STEERING)}.",
        ),
        Section(
            "Reward by length",
            lengths_table(summary, scores),
            f"Mean reward by {shown(scores)} of the answers of so many tokens.",
        ),
    ]
    thirds = summary["difficulty"]
    if thirds is not None:
        note = f"hard / middle / easy: thirds of the prompts by {thirds['sorted_by']}."
        if thirds["judge"] is not None:
            note += f" Gains are of {thirds['judge']} over {thirds['baseline']}."
        found.append(Section("By difficulty", thirds_table(summary), note))
    close = closeness_table(summary)
    if len(close) > 1:
        folded = len(close) - 1 > _MAX_OPEN
        found.append(Section("Close to best-of-n, for fewer tokens?", close, _CLOSE, folded))
    if len(others) > 1:
        folded = len(others) - 1 > _MAX_OPEN
        found.append(Section("Other pairs", others, folded=folded))
    return found


def notes(joined: Joined, summary: Summary, judge: str | None) -> list[str]:
    """What must be known before any table is read."""
    of_pairs = list(
        dict.fromkeys(pair["judge"] for pair in summary["pairs"] if "n_inconsistent" in pair)
    )
    found = ["The steering model's reward is what the methods optimise: no evidence of quality."]
    if judge is not None:
        found.append(f"{judge} is an independent judge.")
        without = [name for name, arm in summary["arms"].items() if judge not in arm["rewards"]]
        if without:
            found.append(f"It did not score {', '.join(without)}.")
    found += [
        f"{name} judged pairs of answers; only verdicts of both orders count." for name in of_pairs
    ]
    if judge is None and of_pairs:
        found.append(
            "No independent judge scored single answers: quality is told by the verdicts of "
            f"{of_pairs[0]} on pairs; every reward here is optimised."
        )
    elif judge is None:
        found.append("No independent judge took part: nothing here tells quality.")
    found.append(
        "Intervals are 95 % bootstrap intervals over prompts; ties count half in win rates."
    )
    if joined.margin > 0:
        found.append(f"Rewards that differ by no more than {joined.margin:g} are ties.")
    if any(joined.n_answers[name] < n_wanted(run) for name, run in joined.manifests.items()):
        found.append(
            "Not all answers are there: arms may stand on different prompts; pairs compare those "
            "that both answered."
        )
    if len(joined.prompts) > 1:
        found.append(
            "The runs do not ask the same prompts: pairs are of arms that share some, and means "
            "of arms that share none are not comparable."
        )
    return found


def _seconds(joined: Joined) -> str:
    widths = sorted({run["run"]["width"] for run in joined.manifests.values()})
    return (
        f"Seconds are those of answers drawn {' or '.join(map(str, widths))} at a time (a cohort): "
        "they compare arms of one run with each other, and say nothing of a chat. Seconds (all) "
        "are of the whole arm: each cohort's slowest answer, added up. Decoded and RM tokens are "
        "means per answer."
    )
