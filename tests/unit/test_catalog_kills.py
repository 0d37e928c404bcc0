"""Pulls and imports that end at any one touch of the disk: what follows is whole and known."""

from __future__ import annotations

import hashlib
import random
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from stars_local.catalog import from_index, from_web, importing
from stars_local.catalog.importing import import_model
from stars_local.catalog.listing import list_models, remove_model
from stars_local.catalog.manifests import manifest_of
from stars_local.catalog.pull import pull
from stars_local.catalog.sources import IndexSource
from stars_local.catalog.verify import verify_models
from stars_local.core.errors import ModelError
from tests.support.file_server import Served, serving
from tests.support.tiny_gguf import write_tiny

TOUCHES = {"open", "os.rename", "os.remove", "os.symlink", "os.mkdir"}


class Killed(BaseException):
    """The process is gone; whatever it would still do does not happen."""


class _Reaper:
    """Ends what runs at its n-th touch of a folder, and lets it touch nothing there any more."""

    def __init__(self) -> None:
        self.folder, self.left = "", 0
        sys.addaudithook(self)  # for good: there is no way to take one back

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.folder and event in TOUCHES and str(arguments[0]).startswith(self.folder):
            self.left -= 1
            if self.left <= 0:
                raise Killed


REAPER = _Reaper()


@contextmanager
def ending(folder: Path, at: int) -> Iterator[None]:
    """Whatever touches a folder is killed at its touch number `at`."""
    REAPER.folder, REAPER.left = str(folder), at
    try:
        with suppress(Killed):
            yield
    finally:
        REAPER.folder = ""


def ignore(stage: str, done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of one file name, size and header."""
    places = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    first, second = (
        write_tiny(place / "m.gguf", "llama", seed=i) for i, place in enumerate(places)
    )
    assert first.stat().st_size == second.stat().st_size
    assert first.read_bytes() != second.read_bytes()
    return first, second


@pytest.fixture(autouse=True)
def _no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "probe_in_child", lambda _path: None)
    for module in (from_web, importing):
        monkeypatch.setattr(module, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)  # hundreds would take a minute
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def at_every_touch(tmp_path: Path, act: Callable[[Path], object]) -> Iterator[Path]:
    """A models folder for each touch of the disk at which the act was killed."""
    for at in range(1, 200):
        folder = tmp_path / str(at)
        folder.mkdir()
        with ending(folder, at):
            act(folder)
            assert at > 5, "hardly anything was touched"
            return
        yield folder
    pytest.fail("it never ended")


def visible(folder: Path) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted(path.name for path in found if not path.name.endswith(".unfinished"))


def is_right(folder: Path, content: bytes) -> None:
    (verdict,) = verify_models(folder, ignore)
    assert (verdict.state, verdict.path.read_bytes()) == ("intact", content)
    assert visible(folder) == ["m.gguf", "m.gguf.json"]


@pytest.mark.parametrize("hash_given", [False, True])
def test_a_pull_killed_at_any_touch_is_ended_by_the_next(
    tmp_path: Path, origins: tuple[Path, Path], hash_given: bool
) -> None:
    sha256 = hashlib.sha256(origins[0].read_bytes()).hexdigest() if hash_given else None
    with serving(Served(origins[0].read_bytes())) as served:
        address = f"{served.address}/m.gguf"
        n_between = 0
        for folder in at_every_touch(
            tmp_path, lambda folder: pull(address, folder, ignore, sha256=sha256)
        ):
            if (folder / "m.gguf").exists():
                n_between += manifest_of(folder, "m.gguf") is None
                assert (folder / "m.gguf").read_bytes() == served.content
            assert all(verdict.is_good for verdict in verify_models(folder, ignore))
            assert all(entry.trouble is None for entry in list_models(folder))
            pull(address, folder, ignore, sha256=sha256)
            is_right(folder, served.content)
        assert n_between > 0, "no kill fell between the file and its manifest"


def test_a_package_read_over_a_download_never_lends_it_its_bytes(
    tmp_path: Path, origins: tuple[Path, Path]
) -> None:
    """The note of an address is gone before bytes of another source stand where its bytes did."""
    part = tmp_path / "m.gguf.part"
    part.write_bytes(b"old")
    note = part.with_name("m.gguf.part.json")
    note.write_text("{}")
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.write(origins[0], "m.gguf")

    def killed(stage: str, _done: int, _total: int) -> None:
        if stage.startswith("unpacking"):
            raise Killed

    source = IndexSource("fake==1", "m.gguf")
    with pytest.raises(Killed):
        from_index._extract(source, tmp_path / "w.whl", part, killed)
    assert part.read_bytes() != b"old" and not note.exists()


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("then", ["import", "pull", "remove"])
def test_an_import_killed_at_any_touch_is_ended_by_the_next(
    tmp_path: Path, origins: tuple[Path, Path], copy: bool, then: str
) -> None:
    def act(folder: Path) -> None:
        import_model(origins[0], folder, ignore, copy=copy)

    with serving(Served(origins[0].read_bytes())) as served:
        for folder in at_every_touch(tmp_path, act):
            assert all(verdict.is_good for verdict in verify_models(folder, ignore))
            if then == "import":
                act(folder)
            elif then == "pull":
                pull(f"{served.address}/m.gguf", folder, ignore)
            else:
                remove_model(folder / "m.gguf", folder, ignore)
                assert visible(folder) == []
                continue
            is_right(folder, served.content)


def test_a_pull_killed_at_any_bytes_goes_on_from_there(
    tmp_path: Path, origins: tuple[Path, Path]
) -> None:
    chance, content = random.Random(4), origins[0].read_bytes()
    for i in range(10):
        folder = tmp_path / str(i)
        folder.mkdir()
        moments = sorted(chance.randrange(1, len(content)) for _ in range(chance.randint(1, 4)))
        with serving(Served(content)) as served:
            for moment in moments:

                def killed(stage: str, done: int, _total: int, moment: int = moment) -> None:
                    if done >= moment and stage.startswith("downloading"):
                        REAPER.left = 0
                        raise Killed

                with ending(folder, 10**6):
                    pull(f"{served.address}/m.gguf", folder, killed)
                assert not (folder / "m.gguf").exists()
            pull(f"{served.address}/m.gguf", folder, ignore)
            is_right(folder, content)
            starts = [int(asked.get("Range", "bytes=0-")[6:-1]) for asked in served.asked]
        # a part that was whole when its reader died is not asked for again
        assert starts[0] == 0 and all(
            moment <= start < moment + 2000
            for moment, start in zip(moments, starts[1:], strict=False)
        )


def test_kills_and_other_files_of_the_name_never_mix_bytes(
    tmp_path: Path, origins: tuple[Path, Path]
) -> None:
    contents = [origin.read_bytes() for origin in origins]
    chance = random.Random(3)
    with serving(Served(contents[0])) as served:
        for i in range(60):
            folder = tmp_path / str(i)
            folder.mkdir()
            address = f"{served.address}/m.gguf"
            for _ in range(chance.randint(1, 5)):
                which = chance.randrange(2)
                served.content, served.tag = contents[which], f'"v{which}"'
                moment = chance.randrange(1, len(contents[0]))

                def killed(stage: str, done: int, _total: int, moment: int = moment) -> None:
                    if done >= moment and stage.startswith(("downloading", "copying")):
                        REAPER.left = 0
                        raise Killed

                touches = chance.choice([chance.randint(5, 25), 10**6])
                with ending(folder, touches), suppress(ModelError):  # the other is here already
                    if chance.random() < 0.6:
                        pull(address, folder, killed)
                    else:
                        import_model(origins[which], folder, killed, copy=True)
            pull(address, folder, ignore)
            assert (folder / "m.gguf").read_bytes() in contents
            assert [verdict.state for verdict in verify_models(folder, ignore)] == ["intact"]
