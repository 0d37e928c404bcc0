"""A comparison of quantised files on one page that needs nothing else, and as Markdown and JSON.

Names of files and errors are shown as text: everything is escaped, and the page runs no script.
"""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stars_local.evals.judges import is_steering
from stars_local.evals.records import write_atomically
from stars_local.evals.report_html import figures, html_table, whole_page
from stars_local.evals.report_markdown import markdown_table
from stars_local.evals.tables import Table, interval, number, shown
from stars_local.quants.pictures import pictures
from stars_local.quants.rows import OWN, STARS, VANILLA, pareto
from stars_local.quants.twosample import EQUIVALENCE

_ARMS = (VANILLA, STARS, OWN)
_TITLE = "Quantised files against their reference"
Row = Mapping[str, Any]


def write_report(result: Mapping[str, Any], out: Path) -> list[Path]:
    """Write report.html, report.md and report.json of a comparison to a folder.

    result: what `quants compare --json` prints: `files` (the reference's row first), `judge`,
    `advice`. Returns the paths. Raises StarsError without matplotlib.
    """
    judge = result["judge"]
    shared = shared_beginning([row["name"] for row in result["files"]])
    rows = [{**row, "name": row["name"].removeprefix(shared)} for row in result["files"]]
    whole = [row for row in rows if "error" not in row]
    made = _tables(rows, whole, judge)
    note = _note(judge) + (f" Every file's name begins with {shared}" if shared else "")
    files = {
        "report.html": _html(made, pictures(whole, judge), note, result["advice"]),
        "report.md": _markdown(made, note, result["advice"]),
        "report.json": json.dumps(result, allow_nan=False),
    }
    for name, text in files.items():
        write_atomically(out / name, text)
    return [out / name for name in files]


def shared_beginning(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot or a hyphen; the rest tells them apart."""
    pairs = zip(min(names), max(names), strict=False)  # all others lie between these two
    shared = "".join(one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    shared = shared[: max(shared.rfind("."), shared.rfind("-")) + 1]
    return shared if len(set(names)) > 1 and shared not in names else ""


def verdict(row: Row, judge: str) -> str:
    """Whether these prompts tell a file from its reference, and by what.

    Told apart: a 95 % interval that leaves out no difference (of the perplexity ratio from 1, or
    of the paired difference between plain answers' rewards), or texts of p < 0.05; no
    allowance is made for the number of files. The STARS arms take no part, whose rewards are
    steered, nor do refusals, whose shares have no paired interval.
    """
    reasons: list[str] = []
    silent: list[str] = []
    ratio = row["ppl_ratio"]
    _sort(ratio, 1.0, f"perplexity {_times(ratio)}", reasons, silent)
    found = row[VANILLA]["difference"][judge]
    _sort(found, 0.0, f"{VANILLA} reward {interval(found)}", reasons, silent)
    sample = row["two_sample"]
    if sample is not None:
        p = "p < 0.001" if sample["p_value"] < 0.001 else f"p = {sample['p_value']:.3f}"
        said = f"texts {p} (MMD² {sample['mmd2']:.4f}, below {sample['upper']:.4f})"
        (reasons if sample["p_value"] < 0.05 else silent).append(said)
    if reasons:
        return "differs: " + "; ".join(reasons)
    return "these prompts can't tell it from the reference: nothing lies beyond its interval: " + (
        "; ".join(silent)
    )


def _sort(
    found: Mapping[str, float | None], same: float, said: str, yes: list[str], no: list[str]
) -> None:
    low, high = found["low"], found["high"]
    if low is not None and high is not None:
        (no if low <= same <= high else yes).append(said)


def _times(estimate: Mapping[str, float | None]) -> str:
    return f"x {interval(estimate, digits=4)}"


def recovered(found: Mapping[str, Any]) -> str:
    """A recovery in words; an upper end that has no bound is called so."""
    share = found["share"]
    if share is None:
        return f"nothing certain was lost; gained {interval(found['gained'])}"
    if found["unbounded"]:
        ends = (share["low"], share["high"])
        low, high = ("unbounded" if end is None else f"{100 * end:.0f}" for end in ends)
        return f"{100 * share['value']:.0f} % [{low}, {high}]"
    return interval(share, percent=True)


def _tables(rows: Sequence[Row], whole: Sequence[Row], judge: str) -> dict[str, Table]:
    made = {
        "Fidelity": _fidelity(whole),
        "Alignment": _alignment(whole),
        "Recovery": _recovery(whole[1:]),
        "Cost": _cost(whole),
        "Speed and memory": _speed(whole),
        "No other beats these in both reward and seconds": [
            ["file", "arm", "seconds (median)", f"reward ({shown(judge)})"],
            *(
                [each["name"], each["arm"], number(each["seconds"], 2), number(each["reward"], 3)]
                for each in pareto(whole, judge)
            ),
        ],
        "What these prompts can tell": [
            ["file", "against the reference"],
            *([row["name"], verdict(row, judge)] for row in whole[1:]),
        ],
    }
    failed = [[row["name"], row["error"]] for row in rows if "error" in row]
    if failed:
        made["Files that failed"] = [["file", "why"], *failed]
    return made


def _fidelity(rows: Sequence[Row]) -> Table:
    head = ["file", "MiB", "bits/weight", "perplexity", "ratio"]
    table = [[*head, "KL mean", "KL median", "KL 99 %", "KL max", "same top"]]
    for row in rows:
        kl = row["kl"]
        table.append(
            [
                row["name"],
                number(row["size_bytes"] / 2**20, 1),
                number(row["bpw"], 2),
                interval(row["ppl"]),
                interval(row["ppl_ratio"], digits=4),
                *(interval(kl[key], digits=4) for key in ("mean", "median", "p99")),
                number(kl["max"], 4),
                interval(row["same_top"], percent=True),
            ]
        )
    return table


def _rows_by_arm(rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    """Each row with each of the arms that it has."""
    return ((row, arm) for row in rows for arm in _ARMS if arm in row)


def _alignment(rows: Sequence[Row]) -> Table:
    judges = list(rows[0][VANILLA]["rewards"])
    kinds = list(rows[0][VANILLA]["refusals"])
    head = [*map(shown, judges), *(f"wins, {shown(j)}" for j in judges)]
    table = [["file", "arm", "n", *head, *(f"refused, {kind}" for kind in kinds)]]
    for row, arm in _rows_by_arm(rows):
        mine = row[arm]
        table.append(
            [
                row["name"],
                arm,
                str(mine["n"]),
                *(interval(mine["rewards"][j]) for j in judges),
                *(interval(mine["win_rate"][j], percent=True) for j in judges),
                *(interval(mine["refusals"][kind], percent=True) for kind in kinds),
            ]
        )
    return table


def _recovery(rows: Sequence[Row]) -> Table:
    head = ["file", "arm", "judge", "recovered", "lost", "lost, both draws"]
    by_means = ("tokens to the reference's vanilla (by means)", "tokens to its STARS (by means)")
    table = [[*head, "left", "over the reference's STARS", *by_means]]
    for row in rows:
        for arm, by_judge in row["recovery"].items():
            for judge, found in by_judge.items():
                reaches = row["reaches"][arm][judge]
                table.append(
                    [
                        row["name"],
                        arm,
                        shown(judge),
                        recovered(found),
                        interval(found["lost"]),
                        interval(row["lost_both"][judge]),
                        interval(found["left"]),
                        interval(row[arm]["difference_stars"][judge]),
                        number(reaches[VANILLA], 0),
                        number(reaches[STARS], 0),
                    ]
                )
    return table


def _cost(rows: Sequence[Row]) -> Table:
    table = [["file", "arm", "seconds (median)", "decoded", "kept", "attempts", "forced"]]
    for row, arm in _rows_by_arm(rows):
        mine = row[arm]
        table.append(
            [
                row["name"],
                arm,
                number(mine["elapsed_s_p50"], 1),
                number(mine["n_decoded_tokens"], 0),
                number(mine["n_kept_tokens"], 0),
                interval(mine["attempts"]),
                interval(mine["forced_share"], percent=True),
            ]
        )
    return table


def _speed(rows: Sequence[Row]) -> Table:
    head = ["file", "MiB", "MiB of memory", "MiB estimated", "prefill tokens/s"]
    table = [[*head, "decode tokens/s, alone", "decode tokens/s, cohort", "cohort"]]
    for row in rows:
        cost = row["cost"]
        memory, rates = cost["memory_bytes"], cost["decode_tokens_per_s"]
        measured = memory["measured"]
        table.append(
            [
                row["name"],
                number(row["size_bytes"] / 2**20, 1),
                number(None if measured is None else measured / 2**20, 0),
                number(memory["estimated"] / 2**20, 0),
                number(cost["prefill_tokens_per_s"], 0),
                number(rates["one"], 0),
                number(rates["wide"], 0),
                str(cost["n_prompts"]),
            ]
        )
    return table


def _note(judge: str) -> str:
    words = (
        "No independent judge took part: quality is told by refusal rules and the steering "
        "reward, which STARS optimises."
        if is_steering(judge)
        else f"{judge} is an independent judge."
    )
    return (
        f"{words} The first row is the reference. Intervals are 95 % bootstrap intervals, over "
        "windows for perplexity and KL divergence, over prompts for all else. Wins are over the "
        "reference's plain answers, ties half. Texts are compared by a two-sample test with a "
        "string kernel, seeds of their own, permuted within prompts: MMD² and its bound at about "
        f"95 %, taken as no difference below {EQUIVALENCE}; p is the permutation's. Where none of "
        "n answers was refused, up to 3/n may be."
    )


def _html(made: Mapping[str, Table], drawn: Mapping[str, str], note: str, advice: str) -> str:
    parts = [f"<p>{html.escape(note)}</p><p><strong>{html.escape(advice)}</strong></p>"]
    for title, rows in made.items():
        parts.append(f"<h2>{html.escape(title)}</h2><div class='wide'>{html_table(rows)}</div>")
    return whole_page(_TITLE, "".join([*parts, figures(drawn)]))


def _markdown(made: Mapping[str, Table], note: str, advice: str) -> str:
    parts = [f"# {_TITLE}", "", note, "", f"**{advice}**", ""]
    for title, rows in made.items():
        parts += [f"## {title}", "", *markdown_table(rows), ""]
    return "\n".join(parts)
