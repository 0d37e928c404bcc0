"""Bundles: the same bytes for the same inputs, and nothing written from a hostile one."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stars_local.bundles import manifest
from stars_local.bundles.create import Source, create_bundle
from stars_local.bundles.manifest import Item
from stars_local.bundles.reading import install_bundle, verify_bundle
from stars_local.core.errors import DataError, UsageError

BODY = b"not really a model"


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Nobody watches."""


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Source]:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(BODY)
    (tmp_path / "p.jsonl").write_text("{}\n")
    return {
        "models/tiny.gguf": Source(path, "MIT"),
        "prompts/p.jsonl": Source(tmp_path / "p.jsonl", None),
    }


def place_in(folder: Path) -> Callable[[Item], Path | None]:
    def place(item: Item) -> Path | None:
        return folder / item.name if item.name.startswith(("models/", "prompts/")) else None

    return place


def tarred(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for header, data in members:
            header.size = len(data) if header.isreg() else 0
            tar.addfile(header, io.BytesIO(data))
    return path


def listing(*items: Item) -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo("manifest.json"), manifest.to_bytes(items, "1")


def item(name: str, data: bytes = BODY) -> Item:
    return Item(name, len(data), hashlib.sha256(data).hexdigest(), None)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, sources: dict[str, Source]) -> None:
    one, two = tmp_path / "1.tar", tmp_path / "2.tar"
    create_bundle(one, sources, "1", quiet)
    sources["models/tiny.gguf"].path.touch()
    sources["models/tiny.gguf"].path.chmod(0o600)
    create_bundle(two, dict(reversed(sources.items())), "1", quiet)
    assert one.read_bytes() == two.read_bytes()
    assert not list(tmp_path.glob(".*.unfinished"))


def test_what_went_in_comes_out(tmp_path: Path, sources: dict[str, Source]) -> None:
    out, place = tmp_path / "b.tar", tmp_path / "there"
    create_bundle(out, sources, "1", quiet)
    for _ in range(2):  # a second time changes nothing
        placed = install_bundle(out, place_in(place), quiet)
        assert {path.relative_to(place).as_posix() for path in placed.values()} == set(sources)
    assert (place / "models/tiny.gguf").read_bytes() == BODY
    licences = {each.name: each.licence for each in verify_bundle(out, quiet).items}
    assert licences["models/tiny.gguf"] == "MIT"


def test_names_longer_than_old_tars_take_are_carried(tmp_path: Path) -> None:
    path, name = tmp_path / "x", f"wheels/long-1-{'x' * 150}.whl"
    path.write_bytes(BODY)
    create_bundle(tmp_path / "b.tar", {name: Source(path, None)}, "1", quiet)
    assert name in {each.name for each in verify_bundle(tmp_path / "b.tar", quiet).items}


def test_a_file_with_other_bytes_stays(tmp_path: Path, sources: dict[str, Source]) -> None:
    out, mine = tmp_path / "b.tar", tmp_path / "there/models/tiny.gguf"
    create_bundle(out, sources, "1", quiet)
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(DataError, match="other bytes"):
        install_bundle(out, place_in(tmp_path / "there"), quiet)
    assert mine.read_bytes() == b"mine"
    assert not (tmp_path / "there/prompts").exists()


def test_nothing_is_written_through_a_link(tmp_path: Path, sources: dict[str, Source]) -> None:
    out, link = tmp_path / "b.tar", tmp_path / "there/models/tiny.gguf"
    create_bundle(out, sources, "1", quiet)
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link"):
        install_bundle(out, place_in(tmp_path / "there"), quiet)
    assert not (tmp_path / "elsewhere").exists()


def test_any_flipped_byte_of_a_member_is_found(tmp_path: Path, sources: dict[str, Source]) -> None:
    out = tmp_path / "b.tar"
    create_bundle(out, sources, "1", quiet)
    whole = out.read_bytes()
    at = whole.index(BODY)
    for offset in range(len(BODY)):
        spoilt = bytearray(whole)
        spoilt[at + offset] ^= 1
        out.write_bytes(spoilt)
        with pytest.raises(DataError, match=r"tiny\.gguf is damaged"):
            install_bundle(out, place_in(tmp_path / "there"), quiet)
    assert not list((tmp_path / "there").rglob("*.gguf"))


def test_a_bundle_cut_short_is_refused(tmp_path: Path, sources: dict[str, Source]) -> None:
    out = tmp_path / "b.tar"
    create_bundle(out, sources, "1", quiet)
    whole = out.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for length in range(0, end - 1, 97):
        out.write_bytes(whole[:length])
        with pytest.raises(DataError):
            verify_bundle(out, quiet)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "models/../../x.gguf", "models/.x.gguf", "models/a/b.gguf", "x",
     "models/a.py", "wheels/x.sh", "models/\x1b[31m.gguf", "models\\x.gguf", "rewards/../x", ""],
)  # fmt: skip
def test_names_that_no_bundle_has_are_refused(tmp_path: Path, name: str) -> None:
    rows = [{"name": name, "size_bytes": 1, "sha256": "0" * 64, "licence": None}]
    data = json.dumps({"schema": 1, "stars_local": "1", "items": rows}).encode()
    with pytest.raises(DataError, match="none that a bundle has"):
        manifest.from_bytes(data, "b")
    with pytest.raises(UsageError, match="cannot be in a bundle"):
        create_bundle(tmp_path / "b.tar", {name: Source(tmp_path, None)}, "1", quiet)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_only_plain_files_are_taken(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("models/a.gguf")
    header.type, header.linkname = kind, "/etc/passwd"
    out = tarred(tmp_path / "b.tar", listing(item("models/a.gguf", b"")), (header, b""))
    with pytest.raises(DataError, match="not as the manifest says"):
        install_bundle(out, place_in(tmp_path / "there"), quiet)


def test_members_that_are_not_listed_or_come_twice_are_refused(tmp_path: Path) -> None:
    def member(name: str) -> tuple[tarfile.TarInfo, bytes]:
        return tarfile.TarInfo(name), BODY

    listed = listing(item("models/a.gguf"))
    for extra in ("models/b.gguf", "models/a.gguf", "../../evil"):
        out = tarred(tmp_path / "b.tar", listed, member("models/a.gguf"), member(extra))
        with pytest.raises(DataError, match="not as the manifest says"):
            install_bundle(out, place_in(tmp_path / "there"), quiet)
        assert not (tmp_path / "there/models/a.gguf").exists()


def test_compressed_tars_and_huge_manifests_are_refused(tmp_path: Path) -> None:
    packed = tmp_path / "b.tar.gz"
    with tarfile.open(packed, "w:gz"):
        pass
    with pytest.raises(DataError, match="not a bundle"):
        verify_bundle(packed, quiet)
    big = bytes(manifest.MAX_MANIFEST_BYTES + 1)
    out = tarred(tmp_path / "b.tar", (tarfile.TarInfo("manifest.json"), big))
    with pytest.raises(DataError, match="at most"):
        verify_bundle(out, quiet)


def test_the_bill_of_materials_lists_every_file_with_its_hash(
    tmp_path: Path, sources: dict[str, Source]
) -> None:
    out = tmp_path / "b.tar"
    create_bundle(out, sources, "1", quiet)
    with tarfile.open(out) as tar:
        file = tar.extractfile("sbom.json")
        assert file is not None
        content = json.load(file)
    assert content["bomFormat"] == "CycloneDX"
    assert {row["name"] for row in content["components"]} == set(sources)


def test_the_installer_refuses_a_bundle_without_wheels(
    tmp_path: Path, sources: dict[str, Source]
) -> None:
    out = tmp_path / "b.tar"
    create_bundle(out, sources, "1", quiet)
    with tarfile.open(out) as tar:
        file = tar.extractfile("install.py")
        assert file is not None
        (tmp_path / "install.py").write_bytes(file.read())
    command = [sys.executable, "-I", tmp_path / "install.py", out, tmp_path / "env"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "holds no wheels" in result.stderr


def test_signatures(tmp_path: Path, sources: dict[str, Source]) -> None:
    pytest.importorskip("cryptography", reason="signatures need the extra 'sign'")
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    for name in ("a", "b"):
        key = Ed25519PrivateKey.generate()
        none = forms.NoEncryption()
        pem = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, none)
        (tmp_path / f"{name}.key").write_bytes(pem)
        public = key.public_key()
        spki = forms.PublicFormat.SubjectPublicKeyInfo
        (tmp_path / f"{name}.pub").write_bytes(public.public_bytes(forms.Encoding.PEM, spki))
    out = tmp_path / "b.tar"
    create_bundle(out, sources, "1", quiet, key=tmp_path / "a.key")
    verify_bundle(out, quiet)
    verify_bundle(out, quiet, key=tmp_path / "a.pub")
    with pytest.raises(DataError, match="not by the key"):
        verify_bundle(out, quiet, key=tmp_path / "b.pub")
    create_bundle(out, sources, "1", quiet)
    with pytest.raises(DataError, match="not signed"):
        verify_bundle(out, quiet, key=tmp_path / "a.pub")
