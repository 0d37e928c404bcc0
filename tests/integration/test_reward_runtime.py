"""ONNX Runtime is loaded in one place, where it is told to send nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.silence import SUPPRESS
from tests.support.tiny_reward import write_tiny_reward

ROOT = Path(__file__).resolve().parents[2]
LOADS = re.compile(r"^\s*(import|from) onnxruntime\b", re.MULTILINE)
OURS = (
    "from pathlib import Path\n"
    "from stars_local.reward.onnx_model import OnnxRewardModel\n"
    "OnnxRewardModel(Path('reward'), provider='cpu', threads=1, trusted=True)"
)


def left_behind(program: str, folder: Path) -> list[Path]:
    """The files in a new home folder after a program of Python that no test seems to run."""
    home = folder / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in SUPPRESS and "TELEMETRY" not in k}
    kept.pop("XDG_CACHE_HOME", None)
    environment = {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
    return [path.relative_to(home) for path in home.rglob("*") if path.is_file()]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep it elsewhere")
def test_a_reward_model_opens_without_a_trace(tmp_path: Path) -> None:
    write_tiny_reward(tmp_path / "reward")
    assert not [path for path in left_behind(OURS, tmp_path) if "stars-local" not in path.parts]


def test_nobody_else_loads_it() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("stars_local", "tests", "scripts")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if LOADS.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["stars_local/reward/runtime.py"]
