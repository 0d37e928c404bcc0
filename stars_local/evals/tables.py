"""The tables of a report by arm and by pair of arms, as cells of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stars_local.evals.judges import is_steering, tells_better

Table = list[list[str]]
Summary = Mapping[str, Any]


def shown(judge: str) -> str:
    """A judge's name, with a warning where the methods optimise what it says."""
    return f"{judge} (optimised)" if is_steering(judge) else judge


def number(value: float | None, digits: int) -> str:
    """A number as people read it; a dash for none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def interval(
    estimate: Mapping[str, float | None], *, percent: bool = False, digits: int | None = None
) -> str:
    """A value with its 95 % interval; a dash where it could not be measured.

    digits: behind the point; by default 2, and 1 of percents.
    """
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None or low is None or high is None:
        return "–"
    places = (1 if percent else 2) if digits is None else digits
    if percent:
        return f"{100 * value:.{places}f} % [{100 * low:.{places}f}, {100 * high:.{places}f}]"
    return f"{value:.{places}f} [{low:.{places}f}, {high:.{places}f}]"


def arms_table(summary: Summary) -> Table:
    """Rewards beside what they cost in tokens and seconds."""
    arms = summary["arms"]
    names = dict.fromkeys(name for arm in arms.values() for name in arm["rewards"])
    judges = list(filter(tells_better, names))
    rows = [["arm", "n", *map(shown, judges), "decoded", "RM tokens"]]
    rows[0] += ["seconds (median)", "seconds (all)"]
    for name, arm in arms.items():
        rewards = [arm["rewards"].get(judge) for judge in judges]
        rows.append(
            [
                name,
                str(arm["n"]),
                *("–" if each is None else interval(each) for each in rewards),
                number(arm["n_decoded_tokens"], 0),
                number(arm["n_rm_tokens"], 0),
                number(arm["elapsed_s_p50"], 1),
                number(arm["wall_s"], 0),
            ]
        )
    return rows


def cost_table(summary: Summary) -> Table:
    """What an answer took, on average."""
    head = ["arm", "decoded", "kept", "rejected", "spare", "decoded per kept", "RM calls"]
    head += ["RM batches", "attempts per segment", "forced", "tokens per rejection"]
    rows = [[*head, "endings rejected", "seconds p50 / p90 / p99"]]
    for name, arm in summary["arms"].items():
        latency = [number(arm[f"elapsed_s_p{level}"], 1) for level in (50, 90, 99)]
        endings = arm["endings_rejected_share"]
        kinds = ("decoded", "kept", "rejected", "spare")
        rows.append(
            [
                name,
                *(number(arm[f"n_{kind}_tokens"], 0) for kind in kinds),
                interval(arm["decoded_per_kept"]),
                number(arm["n_rm_calls"], 1),
                number(arm["n_rm_batches"], 1),
                interval(arm["attempts"]),
                interval(arm["forced_share"], percent=True),
                number(arm["tokens_per_rejection"], 1),
                "–" if endings is None else f"{100 * endings:.1f} %",
                " / ".join(latency),
            ]
        )
    return rows


def texts_table(summary: Summary) -> Table:
    """What the answers are like, whoever likes them."""
    arms = summary["arms"]
    labels = dict.fromkeys(label for arm in arms.values() for label in arm["refusals"])
    likely = dict.fromkeys(name for arm in arms.values() for name in arm["perplexity"])
    refusals = [f"refusals ({label})" for label in labels]
    perplexities = [name.replace("logprob", "perplexity", 1) for name in likely]
    rows = [["arm", *refusals, *perplexities, "words", "distinct-1", "distinct-2", "self-BLEU"]]
    for name, arm in arms.items():
        shares = [arm["refusals"].get(label) for label in labels]
        measured = [arm["perplexity"].get(model) for model in likely]
        rows.append(
            [
                name,
                *("–" if each is None else interval(each, percent=True) for each in shares),
                *("–" if each is None else interval(each) for each in measured),
                number(arm["n_words"], 0),
                *(number(arm[key], 3) for key in ("distinct_1", "distinct_2", "self_bleu")),
            ]
        )
    return rows


def closeness_table(summary: Summary) -> Table:
    """Arms against best-of-n arms that decoded more; only the head where there are none."""
    rows = [["pair", "judge", "n", "decoded tokens of it", "difference in spreads", "close"]]
    said = {True: "yes", False: "no", None: "undecided"}
    for each in summary["closeness"]:
        rows.append(
            [
                f"{each['first']} to {each['second']}",
                shown(each["judge"]),
                str(each["difference"]["n"]),
                f"{100 * each['tokens']:.0f} %",
                interval(each["difference"]),
                said[each["close"]],
            ]
        )
    return rows


def pairs_table(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """Pairs by the judges that tell better from worse; only the head where there are none."""
    head = ["pair", "judge", "n", "win", "tie", "loss", "win rate", "length-controlled"]
    rows = [[*head, "difference", "no verdict"]]
    for pair in pairs:
        if not tells_better(pair["judge"]):
            continue
        shares = [
            dict(zip(("value", "low", "high"), (pair[key], *pair["intervals"][key]), strict=True))
            for key in ("win", "tie", "loss")
        ]
        rows.append(
            [
                f"{pair['first']} over {pair['second']}",
                shown(pair["judge"]),
                str(pair["win_rate"]["n"]),
                *(interval(share, percent=True, digits=0) for share in shares),
                interval(pair["win_rate"], percent=True),
                interval(pair["length_controlled_win_rate"], percent=True),
                interval(pair["difference"]),
                str(pair.get("n_inconsistent", "–")),
            ]
        )
    return rows
