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
from typing import Any


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


def interleaved(
    contenders: Mapping[str, Callable[[], float]], runs: int, *, warmup: int = 1
) -> dict[str, list[float]]:
    """Run each contender in turn, `warmup` + `runs` times; returns what the counted runs gave.

    A contender returns its own measurement (seconds, tokens/s), so that what it sets up before
    is not timed.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warmup + runs):
        for name, contender in contenders.items():
            value = contender()
            if turn >= warmup:
                found[name].append(value)
    return found


def ratio(name: str, versus: str, above: Sequence[float], below: Sequence[float]) -> Figure:
    """The median of pairwise ratios, above / below."""
    return summary(name, "ratio", [a / b for a, b in zip(above, below, strict=True)], versus)


def summary(name: str, unit: str, values: Sequence[float], versus: str = "") -> Figure:
    """A figure from the values of its runs."""
    return Figure(
        name, statistics.median(values), unit, versus, min(values), max(values), len(values)
    )


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
