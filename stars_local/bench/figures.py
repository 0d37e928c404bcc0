"""What a benchmark reports, and how two things are timed fairly against each other.

Speed on a shared machine drifts, so contenders run in turns (A B A B ...) and a ratio is the
median of the ratios of neighbours, never a quotient of two separate sessions.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """One printed number: a median over `runs`, with its least and greatest run.

    versus names what the value is divided by, or is empty where it is divided by nothing.
    """

    name: str
    value: float
    unit: str
    versus: str
    min: float
    max: float
    runs: int

    def to_json(self) -> dict[str, Any]:
        """The figure as JSON; numbers that do not exist are null."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


class Race(Protocol):
    """Runs contenders in turns; returns what the counted runs of each gave."""

    def __call__(self, contenders: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """See `interleaved`."""
        ...


def interleaved(
    contenders: Mapping[str, Callable[[], T]],
    runs: int,
    *,
    warmup: int = 1,
    on_turn: Callable[[], None] | None = None,
) -> dict[str, list[T]]:
    """Run each contender in turn, `warmup` + `runs` times; returns what the counted runs gave.

    A contender returns its own measurement (seconds, tokens/s), so that what it sets up before
    is not timed. on_turn: called after each turn of all contenders.
    """
    found: dict[str, list[T]] = {name: [] for name in contenders}
    for turn in range(warmup + runs):
        for name, contender in contenders.items():
            value = contender()
            if turn >= warmup:
                found[name].append(value)
        if on_turn is not None:
            on_turn()
    return found


def ratio(name: str, versus: str, above: Sequence[float], below: Sequence[float]) -> Figure:
    """The median of pairwise ratios, above / below."""
    return summary(name, "ratio", [a / b for a, b in zip(above, below, strict=True)], versus)


def summary(name: str, unit: str, values: Sequence[float], versus: str = "") -> Figure:
    """A figure from the values of its runs."""
    return Figure(
        name, statistics.median(values), unit, versus, min(values), max(values), len(values)
    )


def interval(
    name: str, versus: str, above: Sequence[float], below: Sequence[float]
) -> list[Figure]:
    """Both ends of the 95 % interval of the mean ratio above / below, by Student's t on its log.

    Nothing where there are fewer than two runs.
    """
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    n = len(logs)
    if n < 2:
        return []
    reach = _t_975(n - 1) * statistics.stdev(logs) / math.sqrt(n)
    middle = statistics.mean(logs)
    ends = {"from": math.exp(middle - reach), "to": math.exp(middle + reach)}
    values = [math.exp(log) for log in logs]
    return [
        Figure(f"{name}, 95 % interval {end}", at, "ratio", versus, min(values), max(values), n)
        for end, at in ends.items()
    ]


# 0.975 quantiles of Student's t with 1, 2, ... degrees of freedom
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)


def _t_975(freedom: int) -> float:
    return _T_975[min(freedom, len(_T_975)) - 1]  # past the table a little too wide


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def machine() -> dict[str, str]:
    """What the figures were measured on: processor, cores, system, Python."""
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": str(cores),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of what does the work."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("stars-local", "llama-cpp-python", "onnxruntime-gpu", "onnxruntime", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
