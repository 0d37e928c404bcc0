"""Where model files live."""

from __future__ import annotations

import os
from pathlib import Path

ENVIRONMENT = "STARS_LOCAL_MODELS_DIR"


def models_folder() -> Path:
    """The folder of the environment variable, else `models/` of a checkout, else the user's."""
    given = os.environ.get(ENVIRONMENT)
    if given:
        return Path(given)
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "models").is_dir():
        return checkout / "models"
    import platformdirs

    return Path(platformdirs.user_data_dir("stars-local", appauthor=False)) / "models"
