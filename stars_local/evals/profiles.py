"""The tables of a report by number of attempts, position, length and difficulty."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stars_local.evals.difficulty import THIRDS
from stars_local.evals.tables import Summary, Table, interval, number

_BANDS = ((1, 1), (2, 2), (3, 3), (4, 4), (5, 8), (9, 16), (17, None))
Band = tuple[int, int | None]


def attempts_table(summary: Summary) -> Table:
    """Of an arm's segments, the shares that took so many attempts."""
    counts = {
        arm: {int(n): count for n, count in each["attempts_distribution"].items()}
        for arm, each in summary["arms"].items()
    }
    bands = _bands([n for mine in counts.values() for n in mine])
    rows = [["arm", "segments", *map(_name, bands)]]
    for arm, mine in counts.items():
        total = sum(mine.values())
        shares = [sum(n for k, n in mine.items() if _holds(band, k)) for band in bands]
        cells = [f"{100 * share / total:.1f} %" if total else "–" for share in shares]
        rows.append([arm, str(total), *cells])
    return rows


def positions_table(summary: Summary) -> Table:
    """Acceptance and the mean reward of what is kept, by the position of the segment."""
    arms = {name: arm["by_segment"] for name, arm in summary["arms"].items()}
    bands = _bands([row["segment"] + 1 for rows in arms.values() for row in rows])
    rows = [["arm", *(f"segment {_name(band)}" for band in bands)]]
    for name, mine in arms.items():
        cells = [name]
        for band in bands:
            here = [row for row in mine if _holds(band, row["segment"] + 1)]
            accepted = _weighed([(row["acceptance"], row["n_judged"]) for row in here])
            reward = _weighed([(row["reward_kept"], row["n"]) for row in here])
            share = "–" if accepted is None else f"{100 * accepted:.0f} %"
            cells.append(f"{share} / {number(reward, 2)}" if here else "–")
        rows.append(cells)
    return rows


def lengths_table(summary: Summary, judge: str) -> Table:
    """An arm's answers and their mean reward, by length in tokens."""
    lengths = summary["lengths"]
    rows = [["arm", *(f"{low}–{high} tokens" for low, high in lengths["bins"])]]
    for name, bins in lengths["arms"].items():
        cells = [f"{number(each['rewards'].get(judge), 2)} (n {each['n']})" for each in bins]
        rows.append([name, *cells])
    return rows


def thirds_table(summary: Summary) -> Table:
    """Hard, middle and easy prompts side by side."""
    head = ["n", "attempts", "forced", "decoded", "seconds p50", "seconds p90", "judge's gain"]
    rows = [["arm", *head]]
    for name, thirds in summary["difficulty"]["arms"].items():
        mine = [thirds.get(third) for third in THIRDS]

        def column(shown: Callable[..., str], found: Sequence[object] = mine) -> str:
            return " / ".join("–" if each is None else shown(each) for each in found)

        rows.append(
            [
                name,
                column(lambda each: str(each["n"])),
                column(lambda each: number(each["attempts"], 2)),
                column(lambda each: f"{100 * each['forced_share']:.0f} %"),
                column(lambda each: number(each["n_decoded_tokens"], 0)),
                column(lambda each: number(each["elapsed_s_p50"], 1)),
                column(lambda each: number(each["elapsed_s_p90"], 1)),
                column(lambda each: interval(each["gain"])),
            ]
        )
    return rows


def _bands(found: Sequence[int]) -> list[Band]:
    """The bands up to the one of the greatest number."""
    return [band for band in _BANDS if band[0] <= max(found, default=0)]


def _holds(band: Band, n: int) -> bool:
    return band[0] <= n and (band[1] is None or n <= band[1])


def _name(band: Band) -> str:
    low, high = band
    return f"{low}+" if high is None else str(low) if low == high else f"{low}–{high}"


def _weighed(found: Sequence[tuple[float | None, int]]) -> float | None:
    """The mean of values by their weights; None without any."""
    known = [(value, weight) for value, weight in found if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
