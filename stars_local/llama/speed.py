"""What a decode step costs on this machine at each width, for the adaptive width.

A short probe at first use draws a few tokens at every width; its verdict is cached by machine,
build, file and number of threads, since nearly every release changes the kernels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stars_local.core.boundaries import Boundary
from stars_local.core.files import write_atomically
from stars_local.core.ports import Draw, Order
from stars_local.core.progress import OnProgress
from stars_local.core.records import Prompt, Sampling
from stars_local.core.strict_json import parse_json
from stars_local.llama.engine import LlamaModel

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_STEPS = 8
_RUNS = 3
_ENOUGH_S = 1.0
_TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps until the evening comes. "


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Seconds of one decode step by width, sampling included."""

    by_width: Mapping[int, float]

    def round_costs(self, segment_size: int) -> dict[int, float]:
        """Seconds of a round of segments by width: one step of the prefix's last token for all
        branches, and `segment_size` - 1 steps of the width."""
        one = self.by_width[1]
        return {w: one + (segment_size - 1) * cost for w, cost in self.by_width.items()}


def step_costs(
    model: LlamaModel,
    cache: Path,
    widest: int,
    on_progress: OnProgress | None = None,
) -> StepCosts:
    """The costs at widths up to `widest`, measured if the cache folder does not have them.

    on_progress: told (stage, widths measured, widths in all). No prompt may be open. A cache that
    cannot be read is measured anew, one that cannot be written is left out.
    """
    path = cache / f"{_key(model)}.json"
    known = _read(path)
    wanted = [width for width in WIDTHS if width <= max(1, widest)]
    if not set(wanted) <= set(known):
        known = {}
        for width in wanted:
            if on_progress is not None:
                on_progress("trying widths, once", len(known), len(wanted))
            known[width] = step_seconds(model, width)
        if on_progress is not None:
            on_progress("trying widths, once", len(known), len(wanted))
        _write(path, known)
    return StepCosts({width: known[width] for width in wanted})


def step_seconds(model: LlamaModel, width: int, n_prompts: int = 1) -> float:
    """Seconds of one decode step, sampling included: of `n_prompts` prompts together, `width`
    attempts each. No prompt may be open.

    From the quickest of a few rounds, the first left out: what else the machine does only ever
    adds. A model so slow that it takes over `_ENOUGH_S` is measured no longer than that, and a
    first round.
    """
    shorts: list[float] = []
    longs: list[float] = []
    text = (_TEXT * 4)[: max(1, _room(model, n_prompts) // 4)]  # a token has a character or more
    trunks: list[int] = []
    try:
        for number in range(n_prompts):
            prompt = Prompt(f"speed{number}", text=text)
            trunks.append(model.open(prompt, Sampling(ignore_eog=True)).trunk)
        began = time.perf_counter()
        for turn in range(_RUNS + 1):
            draws = tuple(Draw((turn * 100 + i,), 64) for i in range(width))
            short = _timed(model, [Order(each, draws, Boundary(2)) for each in trunks])
            long = _timed(model, [Order(each, draws, Boundary(2 + _STEPS)) for each in trunks])
            is_slow = time.perf_counter() - began > _ENOUGH_S
            if turn or is_slow:
                shorts.append(short)
                longs.append(long)
            if is_slow:
                break
    finally:
        for trunk in trunks:
            model.close(trunk)
    return max(1e-9, (min(longs) - min(shorts)) / _STEPS)


def prefill_rate(model: LlamaModel, n_tokens: int = 128) -> float:
    """Tokens a second of the prefill of a prompt, of `n_tokens` or half the room there is.

    The median over a few runs, the first left out unless the model is slow, as in `step_seconds`.
    """
    n_tokens = max(1, min(n_tokens, _room(model, 1) // 2))
    text = _TEXT * (6 * n_tokens // len(_TEXT) + 1)
    while (n_over := len(model.encode(Prompt("speed", text=text))) - n_tokens) > 0:
        text = text[:-n_over]  # a token has a character or more
    found = []
    began = time.perf_counter()
    for turn in range(_RUNS + 1):
        started = time.perf_counter()
        opened = model.open(Prompt("speed", text=text), Sampling(ignore_eog=True))
        elapsed = time.perf_counter() - started
        model.close(opened.trunk)
        is_slow = time.perf_counter() - began > _ENOUGH_S
        if turn or is_slow:
            found.append(opened.n_prompt_tokens / max(1e-9, elapsed))
        if is_slow:
            break
    return statistics.median(found)


def _room(model: LlamaModel, n_prompts: int) -> int:
    """Tokens that each of so many prompts may take: all have one cache, or a stream each."""
    return model.info.n_ctx if model.lends else model.info.n_ctx // n_prompts


def _timed(model: LlamaModel, orders: Sequence[Order]) -> float:
    started = time.perf_counter()
    replies = model.propose(orders)
    elapsed = time.perf_counter() - started
    for order, proposals in zip(orders, replies, strict=True):
        model.reject(order.trunk, proposals)
    return elapsed


def _key(model: LlamaModel) -> str:
    parts = (
        platform.node(),
        model.build,
        model.info.weights_sha256,
        str(model.n_threads),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _read(path: Path) -> dict[int, float]:
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
        return {int(width): float(cost) for width, cost in data.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(path: Path, costs: Mapping[int, float]) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(dict(costs)).encode(), private=True)
