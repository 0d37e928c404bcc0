"""The pictures of a comparison of quantised files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stars_local.evals.pictures import draw, with_interval
from stars_local.quants.rows import OWN, STARS, VANILLA, pareto

Rows = Sequence[Mapping[str, Any]]
Point = tuple[float, Mapping[str, Any], str]
_STYLES = {VANILLA: ("C0", "o"), STARS: ("C1", "s"), OWN: ("C2", "^")}
_MIB = 2**20
_ASIDE = 0.16  # of the arms of one file, in files


def pictures(rows: Rows, judge: str) -> dict[str, str]:
    """Every picture by its caption. rows: whole ones, the reference's first."""
    return {
        "Quality (perplexity) by size, 95 % intervals": draw(lambda axes: _quality(axes, rows)),
        f"Alignment ({judge}) by size, 95 % intervals": draw(
            lambda axes: _alignment(axes, rows, judge)
        ),
        f"Shift of {judge} reward against KL divergence, 95 % intervals": draw(
            lambda axes: _shift(axes, rows, judge)
        ),
        f"Reward ({judge}) against seconds an answer; the line is the front": draw(
            lambda axes: _seconds(axes, rows, judge)
        ),
    }


def _quality(axes: Any, rows: Rows) -> None:
    points = [(place, row["ppl"], row["name"]) for place, row in _by_size(axes, rows)]
    _points(axes, points, VANILLA, "perplexity", names=False)
    axes.set_ylabel("perplexity")


def _alignment(axes: Any, rows: Rows, judge: str) -> None:
    for aside, arm in zip((-_ASIDE, 0.0, _ASIDE), _STYLES, strict=True):
        points = [
            (place + aside, row[arm]["rewards"][judge], row["name"])
            for place, row in _by_size(axes, rows)
            if arm in row
        ]
        _points(axes, points, arm, arm, names=False)
    axes.set_ylabel(f"mean reward ({judge})")


def _by_size(axes: Any, rows: Rows) -> list[tuple[float, Mapping[str, Any]]]:
    """Rows and their places on the axis, by size: true to scale, most would lie on one heap."""
    ordered = sorted(rows, key=lambda row: float(row["size_bytes"]))
    labels = [f"{_plain(row['name'])}\n{row['size_bytes'] / _MIB:.0f}" for row in ordered]
    axes.set_xticks(range(len(ordered)), labels, fontsize=7)
    axes.set_xlabel("file, MiB; smallest first")
    return [(float(place), row) for place, row in enumerate(ordered)]


def _shift(axes: Any, rows: Rows, judge: str) -> None:
    for arm in (VANILLA, STARS):
        points = [
            (row["kl"]["mean"]["value"], row[arm]["difference"][judge], row["name"])
            for row in rows[1:]
            if arm in row
        ]
        _points(axes, points, arm, arm, names=arm == VANILLA)
    axes.axhline(0, color="#808184", linewidth=0.8)
    axes.set_xlabel("mean KL divergence from the reference, nats")
    axes.set_ylabel("reward minus the reference's plain one")


def _seconds(axes: Any, rows: Rows, judge: str) -> None:
    for arm in _STYLES:
        points = [
            (row[arm]["elapsed_s_p50"], row[arm]["rewards"][judge], row["name"])
            for row in rows
            if arm in row and row[arm]["elapsed_s_p50"] is not None
        ]
        _points(axes, points, arm, arm, names=True)
    edge = pareto(rows, judge)
    axes.plot(
        [each["seconds"] for each in edge],
        [each["reward"] for each in edge],
        color="#808184",
        linewidth=0.8,
    )
    axes.set_xlabel("seconds an answer (median)")
    axes.set_ylabel(f"mean reward ({judge})")


def _points(axes: Any, points: Sequence[Point], arm: str, label: str, *, names: bool) -> None:
    colour, marker = _STYLES[arm]
    whole = [(x, y, name) for x, y, name in points if None not in y.values()]
    axes.errorbar(
        [x for x, _, _ in whole],
        **with_interval([y for _, y, _ in whole]),
        color=colour,
        marker=marker,
        linestyle="none",
        capsize=3,
        label=label,
    )
    if names:
        for x, y, name in whole:
            axes.annotate(
                _plain(name),
                (x, y["value"]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
            )


def _plain(name: str) -> str:
    """A name as text: a dollar would begin a formula."""
    return name.replace("$", r"\$")
