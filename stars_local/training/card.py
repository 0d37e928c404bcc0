"""The training card: everything about a run that a reader needs to judge or repeat it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stars_local.core.files import sha256_of, write_atomically
from stars_local.preferences.pairs import Pair
from stars_local.preferences.sources import SourceSpec, TrainingData
from stars_local.preferences.text_format import TEMPLATE_HH_PAIR

CARD_NAME = "card.json"
FORMAT = "stars-local-reward-card-1"


def build_card(
    *,
    specs: Sequence[SourceSpec],
    data: TrainingData,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    held_out_share: float,
    encoder: Path,
    settings: dict[str, Any],
    curve: Sequence[dict[str, Any]],
    versions: dict[str, str],
) -> dict[str, Any]:
    """The card as JSON values; `ships` is true only if every source's licence permits it."""
    barred = sorted({spec.licence for spec in specs if not spec.is_permissive})
    best = min(curve, key=lambda point: float(point["held_out"]["loss"])) if curve else None
    return {
        "format": FORMAT,
        "ships": not barred,
        "evaluation_only_because_of": barred,
        "licences": sorted({spec.licence for spec in specs}),
        "template": TEMPLATE_HH_PAIR,
        "axes": sorted({spec.axis for spec in specs}),
        "encoder": {"sha256": sha256_of(encoder / "model.safetensors")},
        "sources": data.sources,
        "test_files": data.test_files,
        "split": {
            "held_out_share": held_out_share,
            "by": "normalised first turn; the text itself where there is no prompt",
            "train_pairs": _by_source(train),
            "held_out_pairs": _by_source(held_out),
        },
        "settings": settings,
        "curve": list(curve),
        "best_epoch": None if best is None else best["epoch"],
        "versions": versions,
    }


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write ``card.json`` into a folder, whole or not at all."""
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / CARD_NAME, text.encode("utf-8"))


def _by_source(pairs: Sequence[Pair]) -> dict[str, int]:
    return dict(sorted(Counter(pair.source for pair in pairs).items()))
