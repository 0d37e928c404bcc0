"""The tables of a report, as cells of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stars_local.evals.difficulty import THIRDS
from stars_local.evals.judges import REFUSAL, is_logprob, is_steering

Table = list[list[str]]
Summary = Mapping[str, Any]


def tables(summary: Summary) -> dict[str, Table]:
    """Every table by its title."""
    made = {
        "Arms": _arms(summary),
        "Cost": _cost(summary),
        "Texts": _texts(summary),
        "Pairs of arms": _pairs(summary),
    }
    if summary["difficulty"] is not None:
        made["By difficulty: thirds of the prompts by the plain answer's reward"] = _thirds(summary)
    return made


def shown(judge: str) -> str:
    """A judge's name, with a warning where the methods optimise what it says."""
    return f"{judge} (optimised)" if is_steering(judge) else judge


def number(value: float | None, digits: int) -> str:
    """A number as people read it; a dash for none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def interval(estimate: Mapping[str, float | None], *, percent: bool = False) -> str:
    """A value with its 95 % interval; a dash where it could not be measured."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None or low is None or high is None:
        return "–"
    if percent:
        return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _arms(summary: Summary) -> Table:
    """Rewards beside what they cost in tokens."""
    arms = summary["arms"]
    names = dict.fromkeys(name for arm in arms.values() for name in arm["rewards"])
    judges = [name for name in names if not is_logprob(name) and name.split()[0] != REFUSAL]
    rows = [["arm", "n", *map(shown, judges), "decoded", "RM tokens", "seconds (median)"]]
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
            ]
        )
    return rows


def _cost(summary: Summary) -> Table:
    head = ["arm", "decoded", "kept", "rejected", "spare", "decoded per kept", "RM calls"]
    head += ["RM batches", "attempts per segment", "forced", "tokens per rejection"]
    rows = [[*head, "endings rejected", "seconds p50 / p90 / p99"]]
    for name, arm in summary["arms"].items():
        latency = [number(arm[f"elapsed_s_p{level}"], 1) for level in (50, 90, 99)]
        endings = arm["endings_rejected_share"]
        rows.append(
            [
                name,
                *(number(arm[f"n_{kind}_tokens"], 0) for kind in _KINDS),
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


def _thirds(summary: Summary) -> Table:
    """hard, middle and easy prompts side by side."""
    head = ["attempts", "forced", "decoded", "seconds p50", "seconds p90", "judge's gain"]
    rows = [["arm", *(f"{each}: {' / '.join(THIRDS)}" for each in head)]]
    for name, thirds in summary["difficulty"].items():
        mine = [thirds[third] for third in THIRDS if third in thirds]
        columns = [
            [number(each["attempts"], 2) for each in mine],
            [f"{100 * each['forced_share']:.0f} %" for each in mine],
            [number(each["n_decoded_tokens"], 0) for each in mine],
            [number(each["elapsed_s_p50"], 1) for each in mine],
            [number(each["elapsed_s_p90"], 1) for each in mine],
            [interval(each["gain"]) for each in mine],
        ]
        rows.append([name, *(" / ".join(column) for column in columns)])
    return rows


_KINDS = ("decoded", "kept", "rejected", "spare")


def _texts(summary: Summary) -> Table:
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


def _pairs(summary: Summary) -> Table:
    head = ["pair", "judge", "n", "win", "tie", "loss", "win rate", "length-controlled"]
    rows = [[*head, "difference", "no verdict"]]
    for pair in summary["pairs"]:
        if is_logprob(pair["judge"]) or pair["judge"].split()[0] == REFUSAL:
            continue  # neither more nor less of them is a win
        shares = [pair[key] for key in ("win", "tie", "loss")]
        rows.append(
            [
                f"{pair['first']} over {pair['second']}",
                shown(pair["judge"]),
                str(pair["win_rate"]["n"]),
                *("–" if share is None else f"{100 * share:.0f} %" for share in shares),
                interval(pair["win_rate"], percent=True),
                interval(pair["length_controlled_win_rate"], percent=True),
                interval(pair["difference"]),
                str(pair.get("n_inconsistent", "–")),
            ]
        )
    return rows
