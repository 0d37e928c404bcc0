"""Where calibrations are kept, and which one belongs to a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stars_local.calibration.records import CalibrationKey, read_calibration
from stars_local.core.errors import CalibrationError
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


def calibrated_models(reward_sha256: str, axis: str, segment_size: int) -> set[str]:
    """SHA-256 of the language models that have a calibration with this reward model. A file that
    cannot be read counts as none: whoever uses it is told what is wrong with it."""
    found = set()
    for folder in calibration_folders():
        for path in folder.glob("*.json"):
            try:
                key = read_calibration(path).key
            except CalibrationError:
                continue
            if (key.reward_sha256, key.axis, key.segment_size) == (
                reward_sha256,
                axis,
                segment_size,
            ):
                found.add(key.base_model_sha256)
    return found


def calibration_key(
    model: ModelInfo, reward: RewardInfo, chat_template: str | None, segment_size: int
) -> CalibrationKey:
    """What a calibration for this pair is filed under; no template is its own template."""
    template = hashlib.sha256(("" if chat_template is None else chat_template).encode()).hexdigest()
    return CalibrationKey(model.weights_sha256, reward.sha256, reward.axis, template, segment_size)
