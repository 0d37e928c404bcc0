"""The pictures of a report, as SVG text that stands in a page by itself.

Colours follow the page: lines that are not an arm's take `currentColor`, so that light and dark
pages both show them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stars_local.core.errors import StarsError
from stars_local.core.progress import OnProgress, silent
from stars_local.evals.judges import STEERING, is_steering
from stars_local.evals.records import Line
from stars_local.evals.tables import shown

_COLOURS, _MARKERS = 10, "os^Dv<>pXP"
_HATCHES = ("", "//", "..", "xx", "--", "\\\\", "oo", "||", "++", "**")
_INK = "#808184"  # replaced by currentColor in the finished picture
Points = list[tuple[float, Mapping[str, float]]]


def pictures(
    summary: Mapping[str, Any], lines: Sequence[Line], judge: str, advance: OnProgress = silent
) -> dict[str, str]:
    """Every picture by its caption. judge: whose rewards stand for quality."""
    arms = summary["arms"]
    what = f"Reward by {shown(judge)}" if is_steering(judge) else f"Quality ({judge})"
    painters: dict[str, Callable[[Any], None]] = {
        f"{what} against decoded tokens per answer, 95 % intervals": lambda axes: _quality(
            axes, arms, judge
        ),
        "Attempts per segment": lambda axes: _attempts(axes, arms),
        "Share of attempts accepted, by position of the segment": lambda axes: _by_segment(
            axes, arms, "acceptance"
        ),
        f"Reward of kept segments by {shown(STEERING)}, by position": lambda axes: _by_segment(
            axes, arms, "reward_kept"
        ),
        f"Reward by {shown(judge)} against length": lambda axes: _length(axes, lines, judge),
        "Share of segments forced": lambda axes: _forced(axes, arms),
    }
    drawn = {}
    for done, (caption, paint) in enumerate(painters.items(), start=1):
        drawn[caption] = draw(paint)
        advance("drawing", done, len(painters))
    return drawn


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


def curves(arms: Mapping[str, Any], judge: str) -> dict[str, tuple[int, Points]]:
    """By name, the place of a curve's first arm, and points of decoded tokens and reward.

    A curve is a method with one language model: its arms differ in their parameters. The model
    is named where there are several.
    """
    models = {arm["model"] for arm in arms.values()}
    found: dict[str, tuple[int, Points]] = {}
    for place, arm in enumerate(arms.values()):
        mean = arm["rewards"].get(judge)
        if mean is not None and mean["value"] is not None:
            name = arm["method"] if len(models) < 2 else f"{arm['method']} ({arm['model']})"
            found.setdefault(name, (place, []))[1].append((arm["n_decoded_tokens"], mean))
    for _, points in found.values():
        points.sort(key=lambda point: point[0])
    return found


def _quality(axes: Any, arms: Mapping[str, Any], judge: str) -> None:
    for name, (place, points) in curves(arms, judge).items():
        x = [tokens for tokens, _ in points]
        means = [mean for _, mean in points]
        axes.errorbar(x, **with_interval(means), capsize=3, label=name, **line_style(place))
    axes.set_xlabel("decoded tokens per answer")
    axes.set_ylabel(f"mean reward by {shown(judge)}")


def _attempts(axes: Any, arms: Mapping[str, Any]) -> None:
    """Bars side by side, an arm's adding up to 1."""
    width = 0.8 / len(arms)
    for place, (name, arm) in enumerate(arms.items()):
        counts = {int(n): count for n, count in arm["attempts_distribution"].items()}
        total = sum(counts.values())
        if total:
            x = [n + (place + 0.5) * width - 0.4 for n in counts]
            shares = [count / total for count in counts.values()]
            axes.bar(x, shares, width, label=name, **bar_style(place))
    _count_by_whole_numbers(axes)
    axes.set_xlabel("attempts judged")
    axes.set_ylabel("share of segments")


def _by_segment(axes: Any, arms: Mapping[str, Any], key: str) -> None:
    for place, (name, arm) in enumerate(arms.items()):
        rows = [row for row in arm["by_segment"] if row[key] is not None]
        if rows:
            x, y = [row["segment"] + 1 for row in rows], [row[key] for row in rows]
            axes.plot(x, y, label=name, markersize=4, **line_style(place))
    _count_by_whole_numbers(axes)
    axes.set_xlabel("segment")
    axes.set_ylabel("share accepted" if key == "acceptance" else f"reward by {shown(STEERING)}")


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
            label=name,
            **line_style(place),
        )
    _count_by_whole_numbers(axes)
    axes.set_xlabel("tokens of the answer")
    axes.set_ylabel(f"reward by {shown(judge)}")


def _forced(axes: Any, arms: Mapping[str, Any]) -> None:
    names = [name for name, arm in arms.items() if arm["forced_share"]["value"] is not None]
    shares = [100 * arms[name]["forced_share"]["value"] for name in names]
    for name, share in zip(names, shares, strict=True):
        axes.barh(name, share, **bar_style(list(arms).index(name)))
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.0, *shares) * 1.05 if shares else 1.0)
    axes.set_xlabel("% of segments")


def with_interval(means: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What `errorbar` takes of values, lows and highs; it takes no bars of less than nothing, and
    the middle may lie outside of a percentile interval."""
    return {
        "y": [mean["value"] for mean in means],
        "yerr": [
            [max(0.0, mean["value"] - mean["low"]) for mean in means],
            [max(0.0, mean["high"] - mean["value"]) for mean in means],
        ],
    }


def line_style(place: int) -> dict[str, str]:
    """An arm's colour, the same in every picture, and its marker; a hundred arms differ."""
    marker = _MARKERS[(place + place // _COLOURS) % len(_MARKERS)]
    return {"color": f"C{place % _COLOURS}", "marker": marker}


def bar_style(place: int) -> dict[str, Any]:
    """The same with a hatch, for bars."""
    return {
        "color": f"C{place % _COLOURS}",
        "hatch": _HATCHES[place // _COLOURS % len(_HATCHES)],
        "edgecolor": _INK,
        "linewidth": 0,
    }


def _count_by_whole_numbers(axes: Any) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
