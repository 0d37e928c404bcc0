"""From what a person writes behind `--reward` and `--gate` to a reward model."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stars_local.catalog.folder import models_folder
from stars_local.core.errors import RewardError, UsageError
from stars_local.core.ports import RewardModel
from stars_local.reward.combine import CombinedReward, Term, parse_gate, parse_reward
from stars_local.reward.manifest import MANIFEST_NAME
from stars_local.reward.onnx_model import OnnxRewardModel
from stars_local.reward.templates import Render

DEFAULT_MODEL = "hh-minilm"
_PACKAGE = Path(__file__).resolve().parents[1]
# In an installed package the shipped models lie inside it, in a checkout beside it
_SHIPPED = (_PACKAGE / "models", _PACKAGE.parent / "models")


def open_reward(
    spec: str = DEFAULT_MODEL,
    gates: Sequence[str] = (),
    *,
    provider: str = "auto",
    threads: int | None = None,
    render: Render | None = None,
) -> RewardModel:
    """Open what `spec` names (see `stars_local.reward.combine`), with gates.

    Each model is loaded once, whatever asks for it. A gate without a model means the only one
    that is open, or the default one. Raises UsageError for a specification that makes no sense
    or names nothing, RewardError for a model that cannot be used.
    """
    parsed = parse_reward(spec)
    bounds = [parse_gate(gate) for gate in gates]
    plain = parsed if isinstance(parsed, str) else None
    wanted = [] if isinstance(parsed, str) else list(parsed)
    models = {term.model for term in wanted} if plain is None else {plain}
    if len(models) == 1:
        (only,) = models
        bounds = [gate if gate.model is not None else replace(gate, model=only) for gate in bounds]
    opened: dict[Path, OnnxRewardModel] = {}

    def model(name: str | None) -> OnnxRewardModel:
        folder, shipped = _find(name)
        if folder not in opened:
            opened[folder] = OnnxRewardModel(
                folder, provider=provider, threads=threads, trusted=shipped, render=render
            )
        return opened[folder]

    if plain is not None:
        single = model(plain)
        if not bounds:
            return single
        wanted = [Term(plain, single.info.axis, 1.0)]
    names = [term.model for term in wanted] + [gate.model for gate in bounds]
    first: dict[RewardModel, str | None] = {}  # one name a model: it is scored once
    same = {name: first.setdefault(model(name), name) for name in names}
    steered = [(same[term.model], term.axis) for term in wanted]
    twice = next((axis for model, axis in steered if steered.count((model, axis)) > 1), None)
    if twice is not None:
        raise UsageError(f"--reward {spec!r}: {twice} of one model stands there twice")
    return CombinedReward(
        {name: opened for opened, name in first.items()},
        [replace(term, model=same[term.model]) for term in wanted],
        [replace(gate, model=same[gate.model]) for gate in bounds],
    )


def find_models(spec: str) -> list[Path]:
    """The folders of the models that `spec` names, without opening any; raises as `open_reward`
    does for what it cannot find."""
    parsed = parse_reward(spec)
    names = [parsed] if isinstance(parsed, str) else [term.model for term in parsed]
    return [_find(name)[0] for name in names]


def _find(name: str | None) -> tuple[Path, bool]:
    return find_model(DEFAULT_MODEL if name is None else name)


def find_model(name: str, models_dir: Path | None = None) -> tuple[Path, bool]:
    """The folder of a reward model, and whether it came with the program.

    `name` is a folder that holds `reward.json`, or the name of one of `known_models`.
    """
    folder = Path(name)
    try:
        is_model = (folder / MANIFEST_NAME).is_file()
    except OSError as error:  # a name that is too long
        raise UsageError(f"no reward model {name[:60]!r}...: {error.strerror}") from error
    known = known_models(models_dir)
    if not is_model and name in known:
        folder, is_model = known[name], True
    if is_model:
        resolved = folder.resolve()
        return resolved, resolved in [place / DEFAULT_MODEL for place in _SHIPPED]
    if folder.is_dir():
        raise RewardError(
            f"{folder}: no {MANIFEST_NAME} in it; 'stars-local reward export' makes such folders"
        )
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(
        f"no reward model {name!r}: {hint}give a folder with {MANIFEST_NAME}, or a name that is "
        f"known ({', '.join(known) or 'none'})"
    )


def known_models(folder: Path | None = None) -> dict[str, Path]:
    """The folders of reward models by name: those that came with the program, which go first,
    and those of the models folder, where bundles put theirs."""
    found: dict[str, Path] = {}
    for place in (*_SHIPPED, models_folder(folder)):
        try:
            inside = sorted(place.iterdir())
        except OSError:  # none there, or not ours to read
            continue
        for each in inside:
            if (each / MANIFEST_NAME).is_file():
                found.setdefault(each.name, each)
    return found
