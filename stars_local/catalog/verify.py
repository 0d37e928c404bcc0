"""Are the model files what they were when they came?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stars_local.catalog.hashing import sha256_of
from stars_local.catalog.manifests import manifest_of, named_by_manifests
from stars_local.core.errors import ModelError
from stars_local.core.progress import OnProgress


@dataclass(frozen=True, slots=True)
class Verdict:
    """state: `unknown` is a file without a manifest, `missing` a manifest without a file."""

    path: Path
    state: Literal["intact", "damaged", "missing", "unknown"]
    detail: str

    @property
    def is_good(self) -> bool:
        """Whether nothing is known against the file."""
        return self.state in ("intact", "unknown")


def model_files(folder: Path) -> list[Path]:
    """The model files of a folder by name, links whose target is gone included."""
    return sorted(path for path in folder.glob("*.gguf") if not path.name.startswith("."))


def verify_models(folder: Path, on_progress: OnProgress) -> list[Verdict]:
    """Hash every model file of a folder again and hold it against its manifest."""
    names = {path.name for path in model_files(folder)} | set(named_by_manifests(folder))
    verdicts = []
    for name in sorted(names):
        path = folder / name
        try:
            manifest = manifest_of(folder, name)
        except ModelError as error:
            verdicts.append(Verdict(path, "damaged", str(error)))
            continue
        if manifest is None:
            verdicts.append(Verdict(path, "unknown", "no manifest: import it to have one"))
        else:
            verdicts.append(
                verify_file(path, manifest.sha256, on_progress, size_bytes=manifest.size_bytes)
            )
    return verdicts


def verify_file(
    path: Path, sha256: str, on_progress: OnProgress, *, size_bytes: int | None = None
) -> Verdict:
    """Hash one file and hold it against what it must be."""
    try:
        size = path.stat().st_size
        if size_bytes is not None and size != size_bytes:
            return Verdict(path, "damaged", f"{size} bytes, {size_bytes} when it came")
        found = sha256_of(path, f"checking {path.name}", on_progress)
    except FileNotFoundError:
        return Verdict(path, "missing", "the file is gone: pull or import it again")
    except OSError as error:
        return Verdict(path, "damaged", f"cannot be read: {error.strerror}")
    if found != sha256:
        return Verdict(path, "damaged", f"sha256 {found[:12]}…, {sha256[:12]}… when it came")
    return Verdict(path, "intact", "")
