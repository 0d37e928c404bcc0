"""Writing a bundle: the same inputs give the same bytes."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stars_local.bundles import manifest
from stars_local.bundles.manifest import Item
from stars_local.bundles.signing import sign
from stars_local.catalog.hashing import sha256_of
from stars_local.catalog.manifests import clean_licence
from stars_local.catalog.space import need_room
from stars_local.core.errors import DataError, UsageError
from stars_local.core.files import appearing
from stars_local.core.progress import OnProgress

_INSTALLER = Path(__file__).with_name("installer.py")


@dataclass(frozen=True, slots=True)
class Source:
    """A file on this machine and its licence, None where nobody says."""

    path: Path
    licence: str | None


def create_bundle(
    out: Path,
    sources: Mapping[str, Source],
    version: str,
    on_progress: OnProgress,
    *,
    key: Path | None = None,
) -> list[Item]:
    """Write files, by their names in the bundle, to `out`; it appears whole or not at all.

    key: a private Ed25519 key in PEM. A file that changes while it is read is found out. Raises
    UsageError for a name that a bundle cannot have, DataError or ModelError for the rest.
    """
    check(out, sources, key)
    try:
        items = _hashed(sources, on_progress)
        texts = {manifest.INSTALLER: _INSTALLER.read_bytes()}
        texts[manifest.SBOM] = manifest.sbom(items, version)
        items += [
            Item(name, len(data), hashlib.sha256(data).hexdigest(), "Apache-2.0")
            for name, data in texts.items()
        ]
        listed = manifest.to_bytes(items, version)
        if key is not None:
            texts = {manifest.SIGNATURE: sign(listed, key), **texts}
        need_room(out.parent, sum(item.size_bytes for item in items), out.name)
        _write(out, {manifest.MANIFEST: listed, **texts}, sources, items, on_progress)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{out} cannot be written: {error}") from error
    return items


def check(out: Path, sources: Mapping[str, Source], key: Path | None) -> None:
    """Raise UsageError or DataError for whatever can be known before a file is read.

    Names that no bundle has, wheels that fit no one machine, sources that are no plain files, and
    an `out` that cannot be or that is one of them.
    """
    for name in sources:
        if not manifest.is_known_name(name):
            raise UsageError(f"{name!r} cannot be in a bundle: use letters, digits, _ . + and -")
    folded = sorted((name.casefold(), name) for name in sources)
    for (one, first), (other, second) in itertools.pairwise(folded):
        if one == other:
            raise UsageError(f"{first} and {second} are one name on some systems: rename one")
    manifest.wheels_for(sources)
    stats = {source.path: _stat_of_plain_file(source.path) for source in sources.values()}
    try:
        if not out.parent.is_dir():
            raise UsageError(f"{out} cannot be written: there is no folder {out.parent}: make it")
        if not out.exists():
            return
        if not out.is_file():
            raise UsageError(f"{out} is a folder or a device: name a file to write")
        if key is not None and key.exists():
            stats[key] = key.stat()
        same = [path for path, each in stats.items() if os.path.samestat(each, out.stat())]
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error}") from error
    if same:
        raise UsageError(f"{out} is {same[0]}, which is read: name another file to write")


def _stat_of_plain_file(path: Path) -> os.stat_result:
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} cannot be carried: a folder, a pipe or a device, no plain file")
    return found


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror or error}")


def _hashed(sources: Mapping[str, Source], on_progress: OnProgress) -> list[Item]:
    """All files as items by name; progress is told in bytes of them all."""
    sizes = {name: _stat_of_plain_file(source.path).st_size for name, source in sources.items()}
    items: list[Item] = []
    before, total = 0, sum(sizes.values())

    def advance(stage: str, done: int, _total: int) -> None:
        on_progress(stage, min(total, before + done), total)

    for name in sorted(sources):
        try:
            digest = sha256_of(sources[name].path, "hashing", advance)
        except OSError as error:
            raise _unreadable(sources[name].path, error) from error
        licence = clean_licence(sources[name].licence)
        items.append(Item(name, sizes[name], digest, licence))
        before += sizes[name]
    return items


def _write(
    out: Path,
    texts: Mapping[str, bytes],
    sources: Mapping[str, Source],
    items: list[Item],
    on_progress: OnProgress,
) -> None:
    digests = {item.name: item.sha256 for item in items}
    with (
        appearing(out) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for member, data in texts.items():
            tar.addfile(_header(member, len(data)), io.BytesIO(data))
        for done, member in enumerate(sorted(sources)):
            on_progress("writing", done, len(sources))
            _add(tar, member, sources[member].path, digests[member])
        on_progress("writing", len(sources), len(sources))


def _add(tar: tarfile.TarFile, member: str, path: Path, sha256: str) -> None:
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        size = os.fstat(file.fileno()).st_size
        reader = _Hashing(file, path)
        tar.addfile(_header(member, size), reader)
        if reader.digest.hexdigest() != sha256:
            raise _changed(path)


def _changed(path: Path) -> DataError:
    return DataError(f"{path} changed while it was read: create the bundle again")


def _header(name: str, size: int) -> tarfile.TarInfo:
    """The same header on every machine: no owner, no time."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o644
    return header


class _Hashing:
    """A file that hashes what is read from it."""

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        self._file, self._path = file, path
        self.digest = hashlib.sha256()

    def read(self, n: int = -1) -> bytes:
        """Exactly n bytes, or else its DataError: not that of the file written meanwhile."""
        try:
            data = self._file.read(n)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        if len(data) < n:
            raise _changed(self._path)
        self.digest.update(data)
        return data
