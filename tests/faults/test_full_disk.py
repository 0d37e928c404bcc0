"""A disk that is full at any write, and folders that nobody may write to."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stars_local.chat.session import Session, read_session
from stars_local.chat.talk import Talk
from stars_local.cli.app import app
from stars_local.core.errors import DataError
from stars_local.core.files import write_atomically
from tests.support.file_server import Served, serving
from tests.support.silence import commands, pack
from tests.support.tiny_gguf import write_tiny
from tests.unit.test_talk import REWARD, last, model, tasks

ROOT = Path(__file__).resolve().parents[2]
WRITERS = ("eval", "sweep", "report", "calibrate", "chat", "models", "quants")
# In a namespace of its own: a folder of so many bytes, or one mounted read-only
MOUNT = "mount -t tmpfs -o size={size} none {folder} && {then} && exec {python} -c '{program}'"
PROGRAM = "from tests.faults import test_full_disk as here; here.{what}({place!r})"


@contextmanager
def full_after(n_bytes: int) -> Iterator[None]:
    """No file can grow over so many bytes: further writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def unfinished(folder: Path) -> list[Path]:
    endings = (".unfinished", ".part", ".tmp")
    return [path for path in folder.rglob("*") if path.name.endswith(endings)]


def test_a_conversation_keeps_what_was_shown_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    n_failed, n_bytes = 0, 0
    whole = 4000
    while n_bytes < whole:
        with Session.create(tmp_path) as session:
            talk = Talk(session, model(), REWARD)
            try:
                with full_after(n_bytes):
                    for question in ("one", "two"):
                        last(talk.ask(question, tasks(), seed=1))
            except DataError as error:
                n_failed += 1
                assert "cannot be written" in str(error)
            said = [(turn.asked.text, turn.text) for turn in talk.conversation.turns]
            if session.path.exists():
                _, records, n_whole = read_session(session.path)
                assert n_whole == session.path.stat().st_size
                assert len(Session(session.path, session.header, records).conversation.turns) == (
                    len(said)
                )
            else:
                assert said == []
            assert last(talk.ask("more", tasks(), seed=1)).text
            whole = session.path.stat().st_size if n_bytes == 0 else whole
        with Session.resume(session.path) as again:
            turns = [(turn.asked.text, turn.text) for turn in again.conversation.turns]
            assert turns[: len(said) - 1] == said[:-1]
            assert turns[-1][0] == "more"
        n_bytes += 97
    assert n_failed > 5
    assert unfinished(tmp_path) == []


@pytest.fixture(scope="module", name="prepared")
def _prepared(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[tuple[list[str], str]]]:
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STARS_LOCAL_MODELS_DIR", str(folder / "models"))
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        for args in pack(folder):
            packed = run(args, "")
            assert packed.exit_code == 0, packed.output
        yield list(commands(folder))


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STARS_LOCAL_SESSIONS", str(tmp_path / "sessions"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(args: list[str], typed: str) -> Result:
    return CliRunner().invoke(app, args, input=typed)


def test_every_command_says_so_and_leaves_nothing_half_done(
    prepared: list[tuple[list[str], str]], folder: Path
) -> None:
    """Each command that writes, with disks that are full sooner and later, then with room."""
    writers = [each for each in prepared if each[0][0] in WRITERS and "--resume" not in each[0]]
    places = {str(Path(args[i + 1]).parent) for args, _ in writers for i, each in enumerate(args)
              if each == "--out"}  # fmt: skip
    n_refused = 0
    for args, typed in writers:
        for n_bytes in (0, 50, 1500):
            with full_after(n_bytes):
                result = run(args, typed)
            if result.exit_code != 0:
                n_refused += 1
                assert result.exit_code == 1, result.stderr
                assert "internal error" not in result.stderr, (args, result.stderr)
        result = run(args, typed)
        assert result.exit_code == 0, (args, result.stderr)
        shutil.rmtree(folder / "sessions", ignore_errors=True)
        (folder / "c.jsonl").unlink(missing_ok=True)
    assert n_refused >= len(writers)
    assert [left for place in (*places, folder) for left in unfinished(Path(place))] == []


def inside(place: str) -> None:
    """In the namespace: every writer into `place`, each of which must fail in one clean line."""
    folder = Path(place)
    with pytest.raises((OSError, DataError)):
        write_atomically(folder / "file", b"x" * (1 << 20))
    with Session.create(folder) as session, pytest.raises(DataError):
        for question in map(str, range(200)):
            last(Talk(session, model(), REWARD).ask(question, tasks(), seed=1))
    n_turns = len(session.conversation.turns)
    if session.path.exists():
        assert len(Session.resume(session.path).conversation.turns) == n_turns
    assert unfinished(folder) == []
    print(json.dumps({"n_turns": n_turns}))


def crowded(place: str) -> None:
    """In the namespace: commands that write into `place`, which has no byte left."""
    folder = Path(place)
    other = folder.parent
    model, source = write_tiny(other / "tiny.gguf", "llama"), write_tiny(other / "s.gguf", "llama")
    with (folder / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(b"x" * 4096)
    into, n_refused = str(folder), 0
    with serving(Served(model.read_bytes())) as served:
        for args in (
            ["models", "pull", f"{served.address}/pulled.gguf", "--models-dir", f"{into}/models"],
            ["models", "import", str(model), "--copy", "--models-dir", f"{into}/models"],
            ["bundle", "create", f"{into}/b.tar", "--model", str(model)],
            ["quants", "make", str(source), "--types", "Q8_0", "--out", f"{into}/quants"],
        ):
            result = run(args, "")
            n_refused += result.exit_code == 1
            assert "internal error" not in result.stderr and "Traceback" not in result.stderr, args
            assert result.stderr.strip().splitlines()[-1].startswith("stars-local: "), args
    left = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == [folder / "filler"], left
    print(json.dumps({"n_refused": n_refused}))


def in_a_namespace(what: str, place: Path, then: str = "true") -> dict[str, int]:
    """What a function of this module prints, run with a tmpfs of 64 KiB at `place`."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("no namespaces on this system")
    place.mkdir()
    program = PROGRAM.format(what=what, place=str(place)).replace("'", '"')
    script = MOUNT.format(
        size="64k", folder=place, then=then, python=sys.executable, program=program
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no mounts for us: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr[-2000:]
    said: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_small_disk_and_a_read_only_folder(state: str, tmp_path: Path) -> None:
    place = tmp_path / "small"
    then = "true" if state == "full" else f"mount -o remount,ro {place}"
    assert (in_a_namespace("inside", place, then)["n_turns"] > 3) == (state == "full")


def test_commands_that_write_large_files_leave_a_full_disk_as_it_was(tmp_path: Path) -> None:
    assert in_a_namespace("crowded", tmp_path / "small")["n_refused"] == 4
