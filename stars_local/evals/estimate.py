"""What a run will cost before it starts: tokens from its arms' parameters, time from a rate.

    answers * max_new_tokens * (drawn per kept token)

The last factor is n, k or the attempts of a method: those that a calibration measured where the
arm's thresholds are that calibration's, else `max_attempts`, which is a bound. Answers that end
early cost fewer tokens; scoring comes on top of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stars_local.evals.records import Line

_TABLE_WIDTH = 80
_NAME_WIDTH = 36
_BY_BUDGET = ("adaptive", "stopping")


class Basis(StrEnum):
    """Where the tokens drawn per kept token come from."""

    FIXED = "by its parameters"
    CALIBRATED = "attempts calibrated"
    BUDGET = "by its budget"
    BOUND = "at most"


@dataclass(frozen=True, slots=True)
class ArmEstimate:
    """n_answers still to draw; n_tokens to decode for them; basis: how the number was found."""

    name: str
    n_answers: int
    n_tokens: int
    basis: Basis


@dataclass(frozen=True, slots=True)
class Rate:
    """Decoded tokens per second, > 0, and where that was measured."""

    tokens_per_s: float
    origin: str


def estimate_arm(
    name: str, params: Mapping[str, Any], n_answers: int, attempts: float | None
) -> ArmEstimate:
    """The cost of one arm. params: as the manifest records them. attempts: mean attempts per
    segment that a calibration of just these thresholds measured, None without one."""
    drawn, basis = _drawn_per_kept(params, attempts)
    n_tokens = round(n_answers * params["max_new_tokens"] * drawn)
    return ArmEstimate(name, n_answers, n_tokens, basis)


def _drawn_per_kept(params: Mapping[str, Any], attempts: float | None) -> tuple[float, Basis]:
    method = str(params["method"]).partition(":")[0]
    if method == "vanilla":
        return 1.0, Basis.FIXED
    if method == "best-of-n":
        return float(params["n"]), Basis.FIXED
    if method == "blockwise":
        return float(params["k"]), Basis.FIXED
    if method in _BY_BUDGET and params["budget"] is not None:
        return float(params["budget"]), Basis.BUDGET
    if method == "stars" and attempts is not None:
        return min(attempts, float(params["max_attempts"])), Basis.CALIBRATED
    return float(params["max_attempts"]), Basis.BOUND


def rate_of_lines(lines: Iterable[Line]) -> Rate | None:
    """The rate of the cohorts that a run has finished, None without any.

    A cohort is drawn in lockstep, so that it takes as long as its slowest answer.
    """
    tokens: dict[tuple[str, int], int] = {}
    seconds: dict[tuple[str, int], float] = {}
    for line in lines:
        key = (line["arm"], line["cohort"])
        tokens[key] = tokens.get(key, 0) + line["n_decoded_tokens"]
        seconds[key] = max(seconds.get(key, 0.0), line["elapsed_s"])
    total_s, n_tokens = sum(seconds.values()), sum(tokens.values())
    if total_s <= 0 or n_tokens == 0:
        return None
    return Rate(n_tokens / total_s, f"measured on {len(tokens)} cohorts of this run")


def rate_of_steps(by_width: Mapping[int, float], cohort: int) -> Rate:
    """The rate of decode steps of `cohort` sequences. by_width: seconds of a step by width,
    1 among them; the widest that is no wider than the cohort is taken."""
    width = max(each for each in by_width if each <= cohort)
    return Rate(width / by_width[width], f"decode steps of width {width}, without scoring")


def table(arms: Sequence[ArmEstimate], rate: Rate | None) -> str:
    """The estimate as lines of at most 80 columns; rate None: no time is given."""
    rows = [_row(arm.name, arm.n_answers, arm.n_tokens, str(arm.basis), rate) for arm in arms]
    if len(arms) > 1:
        n_answers = sum(arm.n_answers for arm in arms)
        n_tokens = sum(arm.n_tokens for arm in arms)
        rows.append(_row("together", n_answers, n_tokens, "", rate))
    head = f"{'to draw':<{_NAME_WIDTH}} {'answers':>7} {'tokens':>7} {'time':>6}"
    if rate is None:
        return "\n".join([head, *rows, "no time: no rate is known yet"])
    last = f"time at {rate.tokens_per_s:.0f} tokens/s: {rate.origin}"
    return "\n".join([head, *rows, last])


def _row(name: str, n_answers: int, n_tokens: int, note: str, rate: Rate | None) -> str:
    shown = name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 3] + "..."
    time = "-" if rate is None else short_time(n_tokens / rate.tokens_per_s)
    row = f"{shown:<{_NAME_WIDTH}} {n_answers:>7} {short_count(n_tokens):>7} {time:>6}  {note}"
    return row[:_TABLE_WIDTH].rstrip()


def short_count(value: int) -> str:
    """A count >= 0 in few digits: 950, 12.3k, 4.6M."""
    if value < 1000:
        return str(value)
    if value < 999_950:
        return f"{value / 1e3:.1f}k"
    return f"{value / 1e6:.1f}M"


def short_time(seconds: float) -> str:
    """Seconds >= 0 as 42 s, 12 min or 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
