"""The pictures of a report, as SVG text that stands in a page by itself.

Colours follow the page: lines that are not an arm's take `currentColor`, so that light and dark
pages both show them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stars_local.core.errors import StarsError
from stars_local.evals.records import Line

_MARKERS = "os^Dv<>pXP"
_INK = "#808184"  # replaced by currentColor in the finished picture


def pictures(summary: Mapping[str, Any], lines: Sequence[Line], judge: str) -> dict[str, str]:
    """Every picture by its caption. judge: whose rewards stand for quality."""
    arms = summary["arms"]
    return {
        f"Quality ({judge}) against decoded tokens per answer, 95 % intervals": draw(
            lambda axes: _quality(axes, arms, judge)
        ),
        "Attempts per segment": draw(lambda axes: _attempts(axes, arms)),
        "Share of attempts accepted, by position of the segment": draw(
            lambda axes: _by_segment(axes, arms, "acceptance")
        ),
        "Reward of kept segments, by position": draw(
            lambda axes: _by_segment(axes, arms, "reward_kept")
        ),
        f"Reward ({judge}) against length": draw(lambda axes: _length(axes, lines, judge)),
        "Share of segments forced": draw(lambda axes: _forced(axes, arms)),
    }


def draw(paint: Callable[[Any], None]) -> str:
    """One picture as SVG; paint is given its axes. Raises StarsError without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StarsError(
            "matplotlib is not installed: install stars-local[report] to make reports"
        ) from error
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "stars-local",
        "font.family": "sans-serif",
        "text.color": _INK,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        paint(axes)
        if axes.get_legend_handles_labels()[0]:
            # beside the picture: inside of it, it would hide points
            figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


def _quality(axes: Any, arms: Mapping[str, Any], judge: str) -> None:
    """A curve a method: its arms differ in their parameters."""
    curves: dict[str, list[tuple[float, dict[str, float]]]] = {}
    for name, arm in arms.items():
        if judge in arm["rewards"]:
            method = name.partition(":")[0]
            curves.setdefault(method, []).append((arm["n_decoded_tokens"], arm["rewards"][judge]))
    for place, (method, points) in enumerate(curves.items()):
        points.sort(key=lambda point: point[0])
        x = [tokens for tokens, _ in points]
        y = [each["value"] for _, each in points]
        errors = [
            [each["value"] - each["low"] for _, each in points],
            [each["high"] - each["value"] for _, each in points],
        ]
        style = {"color": _colour(place), "marker": _MARKERS[place % len(_MARKERS)]}
        axes.errorbar(x, y, yerr=errors, capsize=3, label=method, **style)
    axes.set_xlabel("decoded tokens per answer")
    axes.set_ylabel(f"mean reward ({judge})")


def _attempts(axes: Any, arms: Mapping[str, Any]) -> None:
    """Bars side by side, an arm's adding up to 1."""
    width = 0.8 / len(arms)
    for place, (name, arm) in enumerate(arms.items()):
        counts = {int(n): count for n, count in arm["attempts_distribution"].items()}
        total = sum(counts.values())
        if total:
            x = [n + (place + 0.5) * width - 0.4 for n in counts]
            shares = [count / total for count in counts.values()]
            axes.bar(x, shares, width, color=_colour(place), label=name)
    _count_by_whole_numbers(axes)
    axes.set_xlabel("attempts judged")
    axes.set_ylabel("share of segments")


def _by_segment(axes: Any, arms: Mapping[str, Any], key: str) -> None:
    for place, (name, arm) in enumerate(arms.items()):
        rows = [row for row in arm["by_segment"] if row[key] is not None]
        if rows:
            x, y = [row["segment"] + 1 for row in rows], [row[key] for row in rows]
            style = {"color": _colour(place), "marker": _MARKERS[place % len(_MARKERS)]}
            axes.plot(x, y, label=name, markersize=4, **style)
    _count_by_whole_numbers(axes)
    axes.set_xlabel("segment")
    axes.set_ylabel(key.replace("_", " "))


def _length(axes: Any, lines: Sequence[Line], judge: str) -> None:
    for place, name in enumerate(dict.fromkeys(line["arm"] for line in lines)):
        mine = [line for line in lines if line["arm"] == name]
        scored = [line for line in mine if line["rewards"].get(judge) is not None]
        axes.scatter(
            [line["n_kept_tokens"] for line in scored],
            [line["rewards"][judge] for line in scored],
            s=14,
            alpha=0.6,
            linewidths=0,
            color=_colour(place),
            label=name,
        )
    _count_by_whole_numbers(axes)
    axes.set_xlabel("tokens of the answer")
    axes.set_ylabel(f"reward ({judge})")


def _forced(axes: Any, arms: Mapping[str, Any]) -> None:
    names = [name for name, arm in arms.items() if arm["forced_share"]["value"] is not None]
    shares = [100 * arms[name]["forced_share"]["value"] for name in names]
    axes.barh(names, shares, color=[_colour(list(arms).index(name)) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.0, *shares) * 1.05 if shares else 1.0)
    axes.set_xlabel("% of segments")


def _colour(place: int) -> str:
    """An arm's colour, the same in every picture."""
    return f"C{place % 10}"


def _count_by_whole_numbers(axes: Any) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
