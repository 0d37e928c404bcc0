"""The architecture, linted: which room may import which."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import stars_local

ROOT = Path(stars_local.__file__).parent
COMPOSITION = {"compose"}
ADAPTERS = {"llama", "reward", "catalog", "calibration", "evals", "chat", "data", "training"} | {
    "preferences",
    "exporting",
    "quants",
}
ALLOWED = {
    "core": {"core"},
    "llama": {"llama", "core"},
    "preferences": {"preferences", "core"},
    "reward": {"reward", "preferences", "catalog", "core", "data"},
    "training": {"training", "preferences", "core"},
    "exporting": {"exporting", "training", "reward", "preferences", "core"},
    "catalog": {"catalog", "core", "llama"},
    "data": {"data", "core"},
    "calibration": {"calibration", "core", "data"},
    "evals": {"evals", "core", "data"},
    "chat": {"chat", "core"},
    "quants": {"quants", "llama", "evals", "core", "data"},
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""}
            if node.module == "stars_local":
                found |= {f"stars_local.{alias.name}" for alias in node.names}
    return found


def own_rooms(path: Path) -> set[str]:
    return {
        name.split(".")[1]
        for name in imports(path)
        if name.startswith("stars_local.") and name != "stars_local"
    }


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_point_inward(path: Path) -> None:
    here, targets = room(path), own_rooms(path)
    assert here in {"cli", "__main__"} or "cli" not in targets, "nobody imports cli"
    if here in ALLOWED:
        assert targets <= ALLOWED[here], f"{here} must not import {targets - ALLOWED[here]}"


def test_core_is_standard_library_only() -> None:
    for path in modules():
        if room(path) != "core":
            continue
        for name in imports(path):
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names | {"stars_local"}, f"{path.name} imports {name}"


def test_folders_are_at_most_two_deep() -> None:
    for path in modules():
        assert len(path.relative_to(ROOT).parts) <= 3, path


def test_files_stay_small_enough_to_read() -> None:
    long = {p.name: n for p in modules() if (n := len(p.read_text().splitlines())) > 320}
    assert not long
