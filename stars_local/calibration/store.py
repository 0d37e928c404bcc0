"""Where calibrations are kept, and which one belongs to a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stars_local.calibration.records import CalibrationKey
from stars_local.core.records import ModelInfo, RewardInfo

_SHIPPED = Path(__file__).resolve().parent.parent / "data" / "calibrations"


def shipped_folder() -> Path:
    """Calibrations that come with the package."""
    return _SHIPPED


def user_folder() -> Path:
    """Calibrations made on this machine."""
    import platformdirs

    return Path(platformdirs.user_data_dir("stars-local", appauthor=False)) / "calibrations"


def calibration_folders() -> tuple[Path, Path]:
    """Where to look, first match wins: what a person measured here goes before what shipped."""
    return user_folder(), shipped_folder()


def calibration_key(
    model: ModelInfo, reward: RewardInfo, chat_template: str | None, segment_size: int
) -> CalibrationKey:
    """What a calibration for this pair is filed under; no template is its own template."""
    template = hashlib.sha256(("" if chat_template is None else chat_template).encode()).hexdigest()
    return CalibrationKey(model.weights_sha256, reward.sha256, reward.axis, template, segment_size)
