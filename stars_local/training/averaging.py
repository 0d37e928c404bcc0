"""Several training runs become one network: the mean of their weights ("model soup").

Runs that started from the same encoder end near each other, and the mean of their weights
judges about as well as their votes together, at the cost of one network. Wortsman et al. 2022,
arXiv 2203.05482 (the uniform soup).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stars_local.core.errors import DataError, RewardError, UsageError
from stars_local.training.card import CARD_NAME, FORMAT, write_card
from stars_local.training.checkpoint import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

_SAME = ("encoder", "axes", "sep_id")
_SHARED = ("template", "axes", "encoder")


def average_checkpoints(
    folders: Sequence[Path], out: Path, *, last: bool = False
) -> dict[str, Any]:
    """Write the mean of the runs' weights as a checkpoint; returns its card.

    last: the runs' last weights (their running average), not those of the lowest held-out loss.
    The first run's settings stand for all. The card holds every member's card whole. `out` is a
    new folder; it can be exported, not resumed.

    Raises UsageError for fewer than two runs or an `out` that exists, RewardError for runs of
    another shape, encoder, template or limits, DataError for a damaged checkpoint.
    """
    if len(folders) < 2:
        raise UsageError(f"an average needs two or more checkpoints, got {len(folders)}")
    if out.exists():
        raise UsageError(f"{out} exists: choose a new folder")
    first, total = load_checkpoint(folders[0])
    mean = _chosen(total, last=last)
    for folder in folders[1:]:
        state, tensors = load_checkpoint(folder)
        _check_same(folders[0], first, folder, state)
        mean = {name: mean[name] + tensor for name, tensor in _chosen(tensors, last=last).items()}
    mean = {name: tensor / len(folders) for name, tensor in mean.items()}
    card = _joined([_read_card(folder) for folder in folders], last=last)
    state = {key: first[key] for key in (*_SAME, "settings")}
    save_checkpoint(
        out, {"global_step": 0, **state}, {f"best.{name}": mean[name] for name in sorted(mean)}
    )
    shutil.copyfile(folders[0] / "tokenizer.json", out / "tokenizer.json")
    write_card(out, card)
    return card


def _chosen(tensors: dict[str, Tensor], *, last: bool) -> dict[str, Tensor]:
    prefix = "average." if last else "best."
    return {
        key.removeprefix(prefix): tensor.float()
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }


def _check_same(one: Path, first: dict[str, Any], other: Path, state: dict[str, Any]) -> None:
    for key in _SAME:
        if first[key] != state[key]:
            raise RewardError(
                f"{one} and {other} differ in their {key}: {first[key]} and {state[key]}"
            )
    limits = [each["settings"]["limits"] for each in (first, state)]
    if limits[0]["max_tokens"] != limits[1]["max_tokens"]:
        raise RewardError(f"{one} and {other} differ in their token limits: {limits}")


def _joined(cards: Sequence[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    for key in _SHARED:
        if any(card[key] != cards[0][key] for card in cards):
            raise RewardError(f"the runs' cards differ in their {key}")
    barred = {name for card in cards for name in card["evaluation_only_because_of"]}
    return {
        "format": FORMAT,
        "ships": all(card["ships"] for card in cards),
        "evaluation_only_because_of": sorted(barred),
        "licences": sorted({name for card in cards for name in card["licences"]}),
        **{key: cards[0][key] for key in _SHARED},
        "average_of": len(cards),
        "weights": "last" if last else "best",
        "members": list(cards),
    }


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD_NAME
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the training card {path}: {error}") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise DataError(f"{path}: not a training card of format {FORMAT}")
    return card
