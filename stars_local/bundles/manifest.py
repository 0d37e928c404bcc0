"""What a bundle holds: `manifest.json`, its first member, and the names that may be in one.

A bundle is a plain, uncompressed tar of plain files: nothing in it can be larger than it is.

    manifest.json          this list: name, size, sha256 and licence of every other member, and
                           the Pythons and platforms that the wheels are for
    manifest.json.sig      Ed25519 over the bytes of manifest.json, where it was signed
    sbom.json              the same as a CycloneDX 1.5 document
    install.py             installs from a bare Python, before anything else is there
    models/NAME.gguf       language models
    rewards/NAME/FILE      reward models
    calibrations/NAME.json calibrations
    prompts/NAME.jsonl     prompt sets
    wheels/NAME.whl        this version and all it needs, for one platform and Python
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from stars_local.bundles.fit import Fit, fit_from, fit_of
from stars_local.catalog.folder import is_reserved
from stars_local.catalog.manifests import clean_licence
from stars_local.catalog.pip import package_name
from stars_local.core.errors import DataError
from stars_local.core.strict_json import parse_json

SCHEMA = 2
_BEFORE = 1  # the same without `wheels_for`
MANIFEST, SIGNATURE, SBOM, INSTALLER = (
    "manifest.json",
    "manifest.json.sig",
    "sbom.json",
    "install.py",
)
MAX_MANIFEST_BYTES = 4 << 20
MAX_MEMBERS = 10_000
SIGNATURE_BYTES = 64
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,180}"
_NAME = re.compile(
    rf"{SBOM}|{re.escape(INSTALLER)}|models/{_PLAIN}\.gguf|rewards/{_PLAIN}/{_PLAIN}"
    rf"|calibrations/{_PLAIN}\.json|prompts/{_PLAIN}"
    rf"|wheels/(?={_PLAIN}\.whl\Z)[^-]+-[^-]+-.+"
)
_KEYS = {"schema", "stars_local", "items"}
_WHEELS = "wheels/"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Item:
    """A member: its name in the bundle, its bytes' number and hash, its licence if known."""

    name: str
    size_bytes: int
    sha256: str
    licence: str | None


@dataclass(frozen=True, slots=True)
class Contents:
    """What a manifest lists; wheels_for: None where no wheels are, or where nobody said."""

    items: list[Item]
    wheels_for: Fit | None


def is_known_name(name: str) -> bool:
    """Whether a bundle may hold a member of this name besides the manifest and its signature."""
    kind, _, rest = name.partition("/")
    if kind == "rewards" and is_reserved(rest.partition("/")[0]):
        return False  # else its files would land among those that `models pull` believes
    return _NAME.fullmatch(name) is not None and ".." not in name


def wheels_for(names: Iterable[str]) -> Fit | None:
    """Which machines the wheels among some members fit; UsageError where that is none."""
    return fit_of(name.removeprefix(_WHEELS) for name in names if name.startswith(_WHEELS))


def to_bytes(items: Sequence[Item], version: str) -> bytes:
    """The manifest: the same bytes for the same items, whatever their order."""
    fit = wheels_for(item.name for item in items)
    rows = [asdict(item) for item in sorted(items, key=lambda item: item.name)]
    content = {
        "schema": SCHEMA,
        "stars_local": version,
        "wheels_for": None if fit is None else asdict(fit),
        "items": rows,
    }
    return (json.dumps(content, indent=1, ensure_ascii=True) + "\n").encode()


def from_bytes(data: bytes, where: str) -> Contents:
    """Read a manifest strictly; DataError for anything that `to_bytes` would not write."""
    try:
        content = parse_json(data.decode())
        schema = content.get("schema") if isinstance(content, dict) else None
        if type(schema) is not int or schema not in (SCHEMA, _BEFORE):
            raise ValueError(f"no object of schema {_BEFORE} or {SCHEMA}")
        if set(content) != _KEYS | ({"wheels_for"} if schema == SCHEMA else set()):
            raise ValueError("other keys than a manifest has")
        rows = content["items"]
        if not isinstance(rows, list) or len(rows) > MAX_MEMBERS:
            raise ValueError(f"no list of up to {MAX_MEMBERS} items")
        items = [_item(row) for row in rows]
        folded = [item.name.casefold() for item in items]
        if len(set(folded)) != len(folded):
            raise ValueError("two members of one name")
        fit = content.get("wheels_for")
        if schema == SCHEMA and (fit is None) == any(n.startswith(_WHEELS) for n in folded):
            raise ValueError("wheels_for: there for wheels, and for nothing else")
        found = Contents(items, None if fit is None else fit_from(fit))
    except ValueError as error:
        raise DataError(f"{where}: not a manifest of a bundle: {error}") from error
    return found


def sbom(items: Sequence[Item], version: str) -> bytes:
    """A CycloneDX 1.5 document of all items, without times and random numbers."""
    rows = []
    for item in sorted(items, key=lambda item: item.name):
        is_model = item.name.startswith(("models/", "rewards/"))
        row: dict[str, Any] = {
            "type": "machine-learning-model"
            if is_model
            else "library"
            if item.name.startswith(_WHEELS)
            else "file",
            "bom-ref": item.name,
            "name": item.name,
            "hashes": [{"alg": "SHA-256", "content": item.sha256}],
        }
        if item.name.startswith(_WHEELS):
            name, number = item.name.removeprefix(_WHEELS).split("-")[:2]
            row |= {"name": name, "version": number, "purl": _purl(name, number)}
        if item.licence is not None:
            row["licenses"] = [{"license": {"name": item.licence}}]
        rows.append(row)
    main = {"type": "application", "name": "stars-local", "version": version}
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": main},
        "components": rows,
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def _purl(name: str, number: str) -> str:
    """A package URL, type pypi."""
    return f"pkg:pypi/{package_name(name)}@{quote(number)}"


def _item(row: object) -> Item:
    if not isinstance(row, dict) or set(row) != {"name", "size_bytes", "sha256", "licence"}:
        raise ValueError("an item of other keys")
    name, size, digest, licence = row["name"], row["size_bytes"], row["sha256"], row["licence"]
    if not isinstance(name, str) or not is_known_name(name):
        raise ValueError(f"the name {ascii(name)[:80]} is none that a bundle has")
    if type(size) is not int or size < 0:
        raise ValueError(f"{name}: a size that is none")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ValueError(f"{name}: a sha256 that is none")
    if licence is not None and (not isinstance(licence, str) or clean_licence(licence) != licence):
        raise ValueError(f"{name}: a licence that is no short line of text")
    return Item(name, size, digest, licence)
