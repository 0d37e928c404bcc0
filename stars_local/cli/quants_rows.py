"""The rows of `quants compare`: fidelity of all files, then the answers and the cost of each.

Fidelity comes first because it finds every file that is not of the reference's model, before an
answer is drawn. All that takes long is kept in the folder of the run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stars_local.config import Configured
from stars_local.core.errors import ModelError, StarsError
from stars_local.core.files import sha256_of
from stars_local.core.progress import OnProgress

if TYPE_CHECKING:
    from stars_local import compose
    from stars_local.arms import Opened
    from stars_local.core.ports import RewardModel
    from stars_local.evals.prompts import PromptSet
    from stars_local.evals.records import Line
    from stars_local.method_settings import Thresholds
    from stars_local.settings import Settings

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What is the same for every file. named: the settings of the arms. rewards: steering models
    that are open. thresholds: finds those of an arm, and measures what is missing."""

    configured: Configured
    out: Path
    found: PromptSet
    labels: dict[str, dict[str, str]]
    named: dict[str, Settings]
    rewards: Mapping[tuple[object, ...], RewardModel]
    judges: dict[str, RewardModel]
    text: str
    window: int
    max_windows: int
    cohort: int
    thresholds: Callable[[Settings, compose.Models], Thresholds | None]
    say: OnProgress


@dataclass(slots=True)
class _File:
    """A file on its way to a row; error: why it did not get there."""

    path: Path
    sha256: str = ""
    listing: Row = dataclasses.field(default_factory=dict)
    fidelity: Row = dataclasses.field(default_factory=dict)
    error: str | None = None


@dataclass(slots=True)
class _Base:
    """What the reference left for the files after it."""

    thresholds: Thresholds | None
    lines: list[Line]


def rows_of(run: Run, reference: Path, files: Sequence[Path]) -> list[Row]:
    """A row a file, the reference's first; only one file and the reference are ever open.

    A file that fails has a row with `error`; errors of usage, and of the reference, are raised.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    every = [_File(path) for path in (reference, *files)]
    _fidelities(run, every)
    base: _Base | None = None
    rows: list[Row] = []
    for each in every:
        if each.error is None:
            try:
                row, made = _answered(run, each, base)
            except StarsError as error:
                if base is None or error.exit_code == 2:
                    raise
                each.error = str(error)
            except FileNotFoundError as error:  # between two looks at it
                if base is None:
                    raise ModelError(f"{each.path} is gone: put it back and start again") from error
                each.error = f"{error.filename} is gone"
            else:
                base = made if base is None else base
                rows.append(row)
                continue
        rows.append({"name": each.path.stem, "error": each.error})
    return rows


def _fidelities(run: Run, every: Sequence[_File]) -> None:
    """Each file against the reference on the text, which stays open; its logits are not kept, so
    that no more than a window of each is ever held."""
    from stars_local.llama.logits import LogitsModel
    from stars_local.quants.fidelity import measure
    from stars_local.quants.listing import list_file
    from stars_local.quants.rows import plain

    threads = run.configured.settings.threads
    n_threads = 0 if threads is None else threads
    with ExitStack() as stack:
        ours: LogitsModel | None = None
        for each in every:
            try:
                each.listing, each.sha256 = list_file(each.path).as_json(), sha256_of(each.path)
                about = [every[0].sha256, each.sha256, run.text, run.window, run.max_windows]
                kept = run.out / f"fidelity-{_key(*about)}.json"
                if kept.exists():
                    each.fidelity = _kept(kept)
                    continue
                if ours is None:
                    opened = LogitsModel(every[0].path, window=run.window, n_threads=n_threads)
                    ours = stack.enter_context(opened)
                with LogitsModel(each.path, window=run.window, n_threads=n_threads) as theirs:
                    found = measure(
                        ours,
                        theirs,
                        run.text,
                        window=run.window,
                        max_windows=run.max_windows,
                        on_window=partial(run.say, f"{each.path.stem} fidelity"),
                    )
                each.fidelity = plain(found.as_json())
                _keep(kept, each.fidelity)
            except StarsError as error:
                if each is every[0] or error.exit_code == 2:
                    raise
                each.error = str(error)


def _answered(run: Run, file: _File, base: _Base | None) -> tuple[Row, _Base]:
    from stars_local.quants.rows import answers_row

    lines, thresholds, cost = answers(run, file.path, file.sha256, base)
    row = {
        "name": file.path.stem,
        "sha256": file.sha256,
        **{key: value for key, value in file.listing.items() if key != "path"},
        **file.fidelity,
        "cost": cost,
        **answers_row(lines, lines if base is None else base.lines, run.labels),
    }
    return row, _Base(thresholds, lines)


def answers(
    run: Run, path: Path, sha256: str, base: _Base | None
) -> tuple[list[Line], Thresholds | None, Row]:
    """Draw what is missing of a file's arms, and time the file. base: None for the reference.

    Returns the lines, the thresholds of the file itself, and what it costs.
    """
    from stars_local import arms
    from stars_local.evals.runner import run as draw
    from stars_local.llama.memory import anonymous_bytes
    from stars_local.quants.rows import APART, OWN, STARS, VANILLA

    settings = run.configured.settings
    seed = 0 if settings.seed is None else settings.seed
    named = {k: dataclasses.replace(v, model=str(path)) for k, v in run.named.items()}
    opened = arms.Opened(run.cohort, [run.found.prompts], rewards=dict(run.rewards))
    try:
        opened.layout(named[STARS])  # counts the prompts, with a model of its own
        before = anonymous_bytes()
        models = opened.get(named[STARS])
        cost = _cost(run, path, sha256, opened, named[STARS], before)
        own = run.thresholds(named[STARS], models)
        fixed = own if base is None else base.thresholds
        made = [
            arms.make_arm(VANILLA, named[VANILLA], opened, run.thresholds, seed),
            arms.make_arm(STARS, named[STARS], opened, lambda *_: fixed, seed),
        ]
        if own != fixed:  # the reference's own, or thresholds given by hand
            made.append(arms.make_arm(OWN, named[STARS], opened, lambda *_: own, seed))
        if base is not None:
            made.append(arms.make_arm(APART, named[VANILLA], opened, run.thresholds, seed + 1))
        steering = models.scoring
        about = {"prompts": run.found.sha256, "steering": steering.info.axis}
        plan = arms.make_plan(made, run.found.prompts, steering, run.judges, run.cohort, about)
        total = len(made) * len(run.found.prompts)
        lines: list[Line] = []
        for line in draw(plan, run.out / f"{path.stem}-{sha256[:8]}"):
            lines.append(line)
            run.say(f"{path.stem} answers", len(lines), total)
        return lines, own, cost
    finally:
        opened.close()


def _cost(
    run: Run, path: Path, sha256: str, opened: Opened, settings: Settings, before: int | None
) -> Row:
    """Speed alone and in a cohort, and memory; measured once on a machine.

    before: memory of this process without the model. A part of the file that llama.cpp repacks
    for its kernels counts in `measured` twice, as it does in the memory.
    """
    from stars_local.llama.gguf_check import check_gguf
    from stars_local.llama.memory import anonymous_bytes, needed_bytes
    from stars_local.quants.timing import time_model

    model, layout = opened.get(settings).language, opened.layout(settings)
    width = int(settings.width)  # of an arm: `auto` was settled
    about = [sha256, run.cohort, width, *dataclasses.astuple(layout), model.n_threads]
    kept = run.out / f"cost-{_key(platform.node(), model.build, *about)}.json"
    if kept.exists():
        return _kept(kept)
    run.say(f"{path.stem} timed", 0, 1)
    speed = time_model(model, width=width, n_prompts=run.cohort)
    run.say(f"{path.stem} timed", 1, 1)
    header = check_gguf(path)  # and is it there still
    after, n_bytes = anonymous_bytes(), header.n_file_bytes
    n_cells = layout.n_ctx if layout.unified else layout.n_ctx * layout.n_sequences
    grown = None if before is None or after is None else n_bytes + max(0, after - before)
    cost = speed.as_json() | {
        "memory_bytes": {
            "estimated": needed_bytes(header, n_bytes, n_cells, layout.n_sequences),
            "measured": grown,
        }
    }
    _keep(kept, cost)
    return cost


def _key(*about: object) -> str:
    return hashlib.sha256("\n".join(map(str, about)).encode()).hexdigest()[:16]


def _kept(path: Path) -> Row:
    from stars_local.core.errors import DataError
    from stars_local.core.strict_json import parse_json

    try:
        known: Row = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}: remove it, and start again") from error
    return known


def _keep(path: Path, row: Row) -> None:
    from stars_local.evals.records import write_atomically

    write_atomically(path, json.dumps(row, allow_nan=False) + "\n")
