"""Bundles of another's making: an answer or one clean error, and no file outside the folders."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.bundles import manifest
from stars_local.bundles.create import Source, create_bundle
from stars_local.bundles.manifest import Item
from stars_local.bundles.reading import install_bundle, verify_bundle
from stars_local.cli.bundle import place_of
from stars_local.core.errors import StarsError
from tests.fuzz.contract import cases, refused_cleanly
from tests.fuzz.mutations import every_odd_value, json_or_bytes, spoilt_bytes

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
LONG = f"wheels/long-1-{'x' * 150}.whl"
BODIES = {
    "models/tiny.gguf": b"a model",
    "rewards/tiny/reward.json": b"{}",
    "calibrations/c.json": b"[]",
    LONG: b"a wheel",
}


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module", name="whole")
def _whole(folder: Path) -> bytes:
    sources = {}
    for name, body in BODIES.items():
        path = folder / name.replace("/", "-")[:60]
        path.write_bytes(body)
        sources[name] = Source(path, "MIT")
    create_bundle(folder / "whole.tar", sources, "1", quiet)
    return (folder / "whole.tar").read_bytes()


@pytest.fixture(scope="module", name="listed")
def _listed(whole: bytes) -> dict[str, object]:
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        content: dict[str, object] = json.load(file)
    return content


def verified(path: Path) -> None:
    """Read all; what was taken must be sound enough to be written down, shown and placed."""
    for item in verify_bundle(path, quiet).items:
        sound(item)


def sound(item: Item) -> None:
    assert manifest.is_known_name(item.name) and item.name.isascii()
    assert item.licence is None or (item.licence.isprintable() and len(item.licence) <= 200)
    place = place_of(item, Path("/models"))
    assert place is None or ".." not in place.parts
    machinery = ("downloads", "manifests", ".locks")
    assert not [part for part in (place or Path()).parts if part.casefold() in machinery]


@cases()
@given(st.data())
def test_spoilt_bundles(folder: Path, whole: bytes, data: st.DataObject) -> None:
    path = folder / "spoilt.tar"
    path.write_bytes(data.draw(spoilt_bytes(whole)))
    refused_cleanly(lambda: verified(path))


@cases()
@given(st.data())
def test_spoilt_headers(folder: Path, whole: bytes, data: st.DataObject) -> None:
    """Spots within one header whose sum is right again."""
    at = data.draw(st.sampled_from(range(0, len(whole.rstrip(b"\0")), 512)))
    block = bytearray(data.draw(spoilt_bytes(whole[at : at + 512]))[:512].ljust(512, b"\0"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path = folder / "headers.tar"
    path.write_bytes(whole[:at] + block + whole[at + 512 :])
    refused_cleanly(lambda: verified(path))


@cases()
@given(st.data())
def test_manifests_of_bundles(listed: object, data: st.DataObject) -> None:
    spoilt = data.draw(json_or_bytes(listed))

    def read() -> None:
        for item in manifest.from_bytes(spoilt, "b.tar").items:
            sound(item)

    refused_cleanly(read)


def test_every_odd_value_in_a_manifest_of_a_bundle(listed: dict[str, object]) -> None:
    for spoilt in every_odd_value(listed):

        def read(spoilt: bytes = spoilt) -> None:
            for item in manifest.from_bytes(spoilt, "b.tar").items:
                sound(item)

        refused_cleanly(read)


@cases(share=0.2)
@given(
    names=st.lists(
        st.builds(
            "/".join,
            st.lists(
                st.sampled_from(
                    ["rewards", "models", "downloads", "Manifests", ".locks", "..", "", "x.gguf"]
                )
                | st.text("ab./\\\0\n", max_size=4),
                min_size=1,
                max_size=4,
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_names_of_members(folder: Path, names: list[str]) -> None:
    """Whole, well hashed bundles of any names: what is taken lies in the folder, by its name."""
    items = [Item(name, 0, EMPTY, None) for name in names]
    path, target = folder / "names.tar", folder / "target"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        rows = manifest.to_bytes(items, "1")
        for name, body in (("manifest.json", rows), *((name, b"") for name in names)):
            header = tarfile.TarInfo(name)
            header.size = len(body)
            tar.addfile(header, io.BytesIO(body))
    try:
        placed = install_bundle(path, lambda item: place_of(item, target), quiet)
    except StarsError:
        return
    for item, place in placed.items():
        assert place.resolve().is_relative_to(target.resolve()), item.name
        sound(item)
