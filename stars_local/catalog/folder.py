"""Where model files live, and how processes take turns there.

FOLDER/*.gguf         models, whole; links where `import` made them
FOLDER/manifests/     what each file that was fetched, imported or installed must hash to
FOLDER/downloads/     unfinished downloads, kept so that the next pull goes on from there, and
                      NAME.arriving.json: the manifest of a file that is about to get its name
FOLDER/.locks/        one lock a file name
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stars_local.core.errors import ModelError
from stars_local.core.progress import OnProgress

_MODEL = ".gguf"
ENVIRONMENT = "STARS_LOCAL_MODELS_DIR"


def models_folder(given: Path | None = None) -> Path:
    """The given folder, else the environment variable's, else `models/` of a checkout, else the
    user's data folder. A leading ~ is a home folder, also where no shell saw it.

    Raises ModelError for the home of nobody.
    """
    if given is not None:
        return _expanded(given)
    named = os.environ.get(ENVIRONMENT)
    if named:
        return _expanded(Path(named))
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return checkout / "models"
    import platformdirs

    return Path(platformdirs.user_data_dir("stars-local", appauthor=False)) / "models"


def _expanded(folder: Path) -> Path:
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise ModelError(f"{folder}: {error} Give another folder of models") from error


def downloads_folder(folder: Path) -> Path:
    """Where unfinished files wait."""
    return folder / "downloads"


def is_reserved(name: str) -> bool:
    """Whether a folder of this name in a models folder would be one of its own, or hide a model.

    Letters of either case count as the same: some disks do not tell them apart.
    """
    folded = name.casefold()
    return folded in ("downloads", "manifests") or folded.startswith(".") or folded.endswith(_MODEL)


@contextmanager
def locked(folder: Path, file_name: str, on_progress: OnProgress) -> Iterator[None]:
    """Hold the only right to change one file of a models folder; waits for other processes.

    The lock goes when the process does, however it ends. Raises ModelError where the folder
    cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        (folder / ".locks").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".locks" / f"{file_name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_progress(f"waiting for another process that works on {file_name}", 0, 1)
            lock.acquire()
    except OSError as error:
        raise ModelError(
            f"{folder} cannot be written ({error.strerror}): choose another with --models-dir "
            f"or {ENVIRONMENT}"
        ) from error
    try:
        yield
    finally:
        lock.release()
