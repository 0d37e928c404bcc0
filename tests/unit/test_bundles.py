"""Bundles: the same bytes for the same inputs, and nothing written from a hostile one."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stars_local.bundles import manifest
from stars_local.bundles.create import Source, check, create_bundle
from stars_local.bundles.manifest import Item
from stars_local.bundles.reading import install_bundle, verify_bundle
from stars_local.bundles.wheels import wheel_licence
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
     "models/a.py", "wheels/x.sh", "models/\x1b[31m.gguf", "models\\x.gguf", "rewards/../x", "",
     "wheels/x.whl", "wheels/x-1.whl", "wheels/x-1-py3.whl\n", "rewards/downloads/m.gguf.part",
     "rewards/Downloads/x", "rewards/manifests/m.gguf.json", "rewards/MANIFESTS/x",
     "rewards/m.gguf/reward.json", "rewards/m.GGUF/reward.json", "rewards/.locks/x"],
)  # fmt: skip
def test_names_that_no_bundle_has_are_refused(tmp_path: Path, name: str) -> None:
    rows = [{"name": name, "size_bytes": 1, "sha256": "0" * 64, "licence": None}]
    data = json.dumps({"schema": 1, "stars_local": "1", "items": rows}).encode()
    with pytest.raises(DataError, match="none that a bundle has"):
        manifest.from_bytes(data, "b")
    with pytest.raises(UsageError, match="cannot be in a bundle"):
        create_bundle(tmp_path / "b.tar", {name: Source(tmp_path, None)}, "1", quiet)


def test_names_that_some_systems_take_for_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    source = Source(tmp_path / "a", None)
    with pytest.raises(UsageError, match="one name on some systems"):
        check(tmp_path / "o.tar", {"prompts/a.txt": source, "prompts/A.txt": source}, None)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_only_plain_files_are_taken(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("models/a.gguf")
    header.type, header.linkname = kind, "/etc/passwd"
    out = tarred(tmp_path / "b.tar", listing(item("models/a.gguf", b"")), (header, b""))
    with pytest.raises(DataError, match="no plain file"):
        install_bundle(out, place_in(tmp_path / "there"), quiet)


def header(name: str, n_bytes: int, kind: bytes, size: bytes | None = None) -> bytes:
    """A header of any type and size field, whose sum is right."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"%011o\0" % n_bytes if size is None else size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def huge(n_bytes: int) -> bytes:
    """A size field as GNU tar writes numbers that are too long for octal digits."""
    return (b"\xff" if n_bytes < 0 else b"\x80") + n_bytes.to_bytes(11, "big", signed=True)


_, _LISTED = listing(item("models/a.gguf"))
_FIRST = header("manifest.json", len(_LISTED), b"0") + _LISTED.ljust(-(-len(_LISTED) // 512) * 512)
HOSTILE_TARS = {
    "long names without end": (header("L", 10, b"L") + b"a".ljust(512, b"\0")) * 3000,
    "extended headers without end": (header("x", 12, b"x") + b"12 path=abc\n".ljust(512)) * 3000,
    "an extended header of all memory": header("x", 0, b"x", huge(1 << 40)) + bytes(1024),
    "a global header": header("g", 12, b"g") + b"12 path=abc\n".ljust(512) + bytes(1024),
    "a hole of 2^70": header("manifest.json", 0, b"S", huge(1 << 70)) + bytes(1024),
    "a second member below zero": _FIRST + header("models/a.gguf", 0, b"0", huge(-512)),
    "a name from another tar": _FIRST[:345] + b"rewards" + _FIRST[352:],
    "bytes behind the end": _FIRST + header("models/a.gguf", len(BODY), b"0")
    + BODY.ljust(512, b"\0") + bytes(1024) + header("models/a.gguf", 0, b"0") + bytes(1024),
    "no end": _FIRST + header("models/a.gguf", len(BODY), b"0") + BODY.ljust(512, b"\0"),
    **{
        f"a {what} of {n_bytes}": header(name, 0, kind, huge(n_bytes)) + bytes(1024)
        for what, name, kind in (("long name", "L", b"L"), ("manifest", "manifest.json", b"0"))
        for n_bytes in (1 << 70, 1 << 62, 1 << 40, -1, -512, -1024)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_TARS)
def test_tars_that_no_bundle_is_are_refused_in_words(tmp_path: Path, name: str) -> None:
    out = tmp_path / "b.tar"
    out.write_bytes(HOSTILE_TARS[name])
    with pytest.raises(DataError, match=r"b\.tar: .*(not a bundle|do not use|cut short|end)"):
        install_bundle(out, place_in(tmp_path / "there"), quiet)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("said", ["\ud800", "a\nb", "\x1b[2J", "x" * 201, "", " MIT", 1])
def test_licences_that_are_no_short_line_are_refused(said: object) -> None:
    row = {"name": "models/a.gguf", "size_bytes": 1, "sha256": "0" * 64, "licence": said}
    data = json.dumps({"schema": 1, "stars_local": "1", "items": [row]}).encode()
    with pytest.raises(DataError, match="a licence that is no short line"):
        manifest.from_bytes(data, "b")


@pytest.mark.parametrize(
    ("said", "carried"),
    [("GPL\n\n\tv3", "GPL v3"), (" \n", None), ("a\x1b[2J\ud800", "a?[2J?"), ("é", "é")],
)
def test_licences_are_made_one_short_line(
    tmp_path: Path, sources: dict[str, Source], said: str, carried: str | None
) -> None:
    sources["models/tiny.gguf"] = Source(sources["models/tiny.gguf"].path, said)
    sources["prompts/p.jsonl"] = Source(sources["prompts/p.jsonl"].path, said * 1_000_000)
    create_bundle(tmp_path / "b.tar", sources, "1", quiet)
    found = {each.name: each.licence for each in verify_bundle(tmp_path / "b.tar", quiet).items}
    assert found["models/tiny.gguf"] == carried
    assert len(found["prompts/p.jsonl"] or "") in (0, 200)


def test_room_is_asked_for_all_files_at_once(
    tmp_path: Path, sources: dict[str, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    create_bundle(tmp_path / "b.tar", sources, "1", quiet)
    asked: list[int] = []
    monkeypatch.setattr(
        "stars_local.bundles.reading.need_room", lambda _folder, n, _what: asked.append(n)
    )
    install_bundle(tmp_path / "b.tar", place_in(tmp_path / "there"), quiet)
    assert asked == [sum(source.path.stat().st_size for source in sources.values())]


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


@pytest.mark.parametrize(
    ("wheel_name", "purl"),
    [("llama_cpp_python-0.3.36-cp311-cp311-linux_x86_64", "pkg:pypi/llama-cpp-python@0.3.36"),
     ("Jinja2-3.1.6-py3-none-any", "pkg:pypi/jinja2@3.1.6"),
     ("a.b__C-1.0+cpu-py3-none-any", "pkg:pypi/a-b-c@1.0%2Bcpu")],
)  # fmt: skip
def test_wheels_go_by_their_package_urls(wheel_name: str, purl: str) -> None:
    (row,) = json.loads(manifest.sbom([item(f"wheels/{wheel_name}.whl")], "1"))["components"]
    assert row["purl"] == purl


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


def wheel(path: Path, metadata: str, *, spoil: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x-1.dist-info/METADATA", metadata)
    if spoil:
        data = bytearray(path.read_bytes())
        at = data.index(b"METADATA") + len(b"METADATA")
        data[at : at + 6] = b"\xff" * 6
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [("License: MIT\nName: x\n", "MIT"), ("License:  \nName: x\n", None), ("Name: x\n", None),
     ("License-Expression: A AND B\nLicense: C\n", "A AND B"),
     ("Classifier: License :: OSI Approved :: BSD License\n", "BSD License")],
)  # fmt: skip
def test_the_licence_of_a_wheel(tmp_path: Path, metadata: str, licence: str | None) -> None:
    assert wheel_licence(wheel(tmp_path / "x.whl", metadata)) == licence


def test_a_wheel_that_is_spoilt_is_named(tmp_path: Path) -> None:
    path = wheel(tmp_path / "x.whl", "Name: x\n" * 200, spoil=True)
    with pytest.raises(DataError, match=r"x\.whl: not a wheel"):
        wheel_licence(path)
