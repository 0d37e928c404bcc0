"""Reading a bundle that may be hostile: verified whole before the first file is written."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from stars_local.bundles import manifest
from stars_local.bundles.fit import Fit
from stars_local.bundles.manifest import Contents, Item
from stars_local.bundles.members import Member, members
from stars_local.bundles.signing import check_signature
from stars_local.catalog.space import need_room
from stars_local.core.errors import DataError
from stars_local.core.files import appearing, sha256_of
from stars_local.core.progress import OnProgress

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Verified:
    """What a bundle holds, whom its wheels are for if it says so, and the key that was held
    against its signature."""

    items: tuple[Item, ...]
    wheels_for: Fit | None
    signed_by: Path | None


def verify_bundle(path: Path, on_progress: OnProgress, *, key: Path | None = None) -> Verified:
    """Read all of a bundle. Raises DataError that names the first member that is wrong."""
    with _opened(path) as file:
        found = _check(path, file, on_progress, key, lambda _item: None)
    return Verified(tuple(found.items), found.wheels_for, key)


def install_bundle(
    path: Path,
    target_of: Callable[[Item], Path | None],
    on_progress: OnProgress,
    *,
    key: Path | None = None,
) -> Mapping[Item, Path]:
    """Verify a bundle, then write the members that `target_of` has a place for, each whole.

    A file that is there already must have the same bytes. The bundle is hashed a second time as
    it is written, so that one exchanged in between is found. Returns where each member lies.
    Raises DataError, or ModelError where a disk has no room for all; what was written by then is
    whole and stays.
    """
    try:
        verified = verify_bundle(path, on_progress, key=key)
        targets = {item: place for item in verified.items if (place := target_of(item)) is not None}
        for item, place in targets.items():
            _refuse_link(place)
            if place.exists() and sha256_of(place) != item.sha256:
                raise DataError(f"{place} is here already with other bytes: move it away first")
        _need_room_for_all(path, targets)
        with _opened(path) as file:
            _check(path, file, on_progress, key, targets.get)
    except OSError as error:
        raise DataError(f"{path} cannot be installed: {error}") from error
    return targets


def _need_room_for_all(path: Path, targets: Mapping[Item, Path]) -> None:
    """Make the folders, and ask each disk for the sum of what it will hold."""
    wanted: Counter[int] = Counter()
    folders: dict[int, Path] = {}
    for item, place in targets.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            disk = place.parent.stat().st_dev
            folders[disk] = place.parent
            wanted[disk] += item.size_bytes
    for disk, n_bytes in wanted.items():
        need_room(folders[disk], n_bytes, path.name)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        if path.exists() and not path.is_file():  # a pipe without a writer would hang for ever
            raise DataError(f"{path}: not a bundle: a folder, a pipe or a device, no plain file")
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a bundle that can be read: {error}") from error
    with file:
        yield file


def _check(
    path: Path,
    file: IO[bytes],
    on_progress: OnProgress,
    key: Path | None,
    target_of: Callable[[Item], Path | None],
) -> Contents:
    found = members(file, path)
    first = next(found, None)
    if first is None or first.name != manifest.MANIFEST:
        raise DataError(f"{path}: its first member is not {manifest.MANIFEST}: not a bundle")
    listed = _read(path, file, first, manifest.MAX_MANIFEST_BYTES)
    contents = manifest.from_bytes(listed, str(path))
    waiting = {item.name: item for item in contents.items}
    member, signature, done = next(found, None), None, 0
    if member is not None and member.name == manifest.SIGNATURE:
        signature = _read(path, file, member, manifest.SIGNATURE_BYTES)
        member = next(found, None)
    if key is not None:
        check_signature(listed, signature, key)
    while member is not None:
        item = waiting.pop(member.name, None)
        if item is None or member.size_bytes != item.size_bytes:
            raise DataError(
                f"{path}: the member {ascii(member.name)[:80]} is not as the manifest says: a "
                "second one, another size, or not in it; do not use this bundle"
            )
        _take(path, file, member, item, target_of(item))
        done += 1
        on_progress(f"reading {path.name}", done, len(contents.items))
        member = next(found, None)
    if waiting:
        raise DataError(f"{path}: {min(waiting)} is missing: the file is cut short; fetch it again")
    return contents


def _read(path: Path, file: IO[bytes], member: Member, limit: int) -> bytes:
    if member.size_bytes > limit:
        raise DataError(
            f"{path}: {member.name} has {member.size_bytes} bytes, at most {limit} can be"
        )
    file.seek(member.begins_at)
    return file.read(member.size_bytes)


def _take(path: Path, file: IO[bytes], member: Member, item: Item, target: Path | None) -> None:
    digest, left = hashlib.sha256(), member.size_bytes
    file.seek(member.begins_at)
    writes = target is not None and not target.exists()
    with appearing(target, 0o644) if target and writes else nullcontext() as out:
        while chunk := file.read(min(left, _CHUNK_BYTES)):
            left -= len(chunk)
            digest.update(chunk)
            if out is not None:
                out.write(chunk)
        if digest.hexdigest() != item.sha256:
            raise DataError(f"{path}: {item.name} is damaged: fetch the bundle again")


def _refuse_link(place: Path) -> None:
    if place.is_symlink():
        raise DataError(f"{place} is a link: remove it first, nothing is written through links")
