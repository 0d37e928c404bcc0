"""Model files that change, between runs and under one's feet, and models that cannot fit."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stars_local import compose
from stars_local.catalog.folder import models_folder
from stars_local.catalog.importing import import_model
from stars_local.catalog.manifests import remove_manifest
from stars_local.chat.session import Session
from stars_local.chat.talk import Talk
from stars_local.core.boundaries import Boundary
from stars_local.core.doubles import TableReward
from stars_local.core.errors import ModelError, OutOfCellsError
from stars_local.core.ports import Draw, Order
from stars_local.core.records import Prompt, Sampling
from stars_local.llama import memory
from stars_local.llama.digest import file_sha256
from stars_local.llama.engine import LlamaModel
from stars_local.llama.gguf_check import check_gguf
from stars_local.llama.library import native
from stars_local.settings import Settings
from tests.faults.test_failing_parts import tasks
from tests.support.tiny_gguf import write_tiny, write_tiny_split
from tests.unit.test_talk import last

PROMPT = Prompt("p", text="Once upon a time")


def opened(path: Path, n_ctx: int = 64, n_seqs: int = 8) -> LlamaModel:
    return LlamaModel(path, n_ctx=n_ctx, n_seq_max=n_seqs, n_threads=1, strategy="branch")


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.gguf", "llama")


def answer(model: LlamaModel) -> str:
    trunk = model.open(PROMPT, Sampling()).trunk
    ((proposal,),) = model.propose([Order(trunk, (Draw((1,), 8),), Boundary(8))])
    model.close(trunk)
    return proposal.text


def test_a_file_of_the_same_size_and_time_has_another_hash(path: Path, tmp_path: Path) -> None:
    with opened(path) as model:
        first = model.info.sha256
    before = path.stat()
    other = write_tiny(tmp_path / "other.gguf", "llama", seed=1)
    assert other.stat().st_size == before.st_size
    shutil.copyfile(other, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with opened(path) as model:
        assert model.info.sha256 != first


def test_a_model_in_parts_is_another_when_any_part_is(tmp_path: Path) -> None:
    found = set()
    for seed, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        first, last = write_tiny_split(tmp_path / name, "llama")
        if seed:
            data = bytearray(last.read_bytes())
            data[-1] ^= 1
            last.write_bytes(data)
        with opened(first) as model:
            found.add(model.info.sha256)
        assert file_sha256(first) not in found
    assert len(found) == 2


@pytest.fixture(name="kept")
def _kept(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that was imported into the models folder."""
    folder = tmp_path / "models"
    monkeypatch.setenv("STARS_LOCAL_MODELS_DIR", str(folder))
    (found,) = import_model(path, models_folder(), lambda *_: None, copy=True)
    return found


def start(path: Path) -> str:
    settings = Settings(model=str(path), n_ctx=64, threads=1)
    with compose.open_language_model(settings, n_sequences=8) as model:
        return model.info.sha256


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_was_replaced_between_runs_is_refused(
    kept: Path, tmp_path: Path, same_size: bool
) -> None:
    first = start(kept)
    before = kept.stat()
    other = write_tiny(tmp_path / "other.gguf", "llama", seed=1)
    if not same_size:
        other.write_bytes(other.read_bytes() + bytes(32))
    other.replace(kept)
    os.utime(kept, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (kept.stat().st_size == before.st_size) == same_size
    with pytest.raises(ModelError, match="not the file that came here: run 'stars-local models v"):
        start(kept)
    remove_manifest(kept.parent, kept.name)
    assert start(kept) != first  # nothing says what it should be


def test_a_file_that_stayed_is_not_read_again(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(kept)

    def never(*_: object) -> None:
        raise AssertionError("it was hashed again")

    monkeypatch.setattr("stars_local.llama.digest.hashlib.file_digest", never)
    start(kept)


def test_a_file_that_was_cut_between_runs_is_refused_with_numbers(path: Path) -> None:
    n_bytes = path.stat().st_size
    opened(path).unload()
    os.truncate(path, n_bytes - 100)
    with pytest.raises(ModelError, match=f"{n_bytes - 100} bytes of {n_bytes}"):
        opened(path)


@pytest.mark.parametrize("how", ["cut", "written"])
def test_a_file_that_changes_while_in_use_is_an_error_and_no_crash(path: Path, how: str) -> None:
    with opened(path) as model:
        answer(model)
        trunk = model.open(PROMPT, Sampling()).trunk
        if how == "cut":
            os.truncate(path, 4096)
        else:
            with path.open("r+b") as file:
                file.seek(-64, os.SEEK_END)
                file.write(b"\xff" * 64)
        with pytest.raises(ModelError, match="changed while in use"):
            model.propose([Order(trunk, (Draw((1,), 8),), Boundary(8))])
        with pytest.raises(ModelError, match="changed while in use"):
            model.open(PROMPT, Sampling())


CUT_WHILE_DECODING = """
import itertools, json, os, sys
from pathlib import Path
from stars_local.chat.session import Session
from stars_local.chat.talk import Talk
from stars_local.core.doubles import TableReward
from stars_local.llama.library import native
from tests.faults.test_failing_parts import tasks
from tests.faults.test_files_in_use import opened

path, sessions, at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
library, calls, talks = native(), itertools.count(1), []
decode = library.llama_decode

def cut_first(context, batch):
    if talks and next(calls) == at:
        kept = [each.segment.text for each in talks[0].conversation.last.kept]
        print(json.dumps(kept), flush=True)
        os.truncate(path, 0)
    return decode(context, batch)

library.llama_decode = cut_first
with opened(path, n_ctx=256, n_seqs=8) as model, Session.create(sessions) as session:
    talks.append(Talk(session, model, TableReward(lambda text: text.count("e") / 4)))
    for _ in talks[0].ask("one", tasks(), seed=1):
        pass
print("survived", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="a system without SIGBUS")
@pytest.mark.parametrize("at", [3, 14])
def test_a_file_that_is_cut_within_a_decode_costs_the_process_and_no_accepted_segment(
    path: Path, tmp_path: Path, at: int
) -> None:
    """No check can come before it: the weights are mapped, so the system ends the process."""
    (tmp_path / "s").mkdir()
    command = [sys.executable, "-c", CUT_WHILE_DECODING, str(path), str(tmp_path / "s"), str(at)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGBUS, done.stderr
    kept = json.loads(done.stdout)
    assert at < 14 or kept
    (file,) = (tmp_path / "s").glob("*.jsonl")
    with Session.resume(file) as session:
        turn = session.conversation.last
        assert turn is not None and turn.asked.text == "one"
        assert [each.segment.text for each in turn.kept] == kept
        with opened(write_tiny(path, "llama"), n_ctx=256) as model:
            talk = Talk(session, model, TableReward(lambda text: text.count("e") / 4))
            assert last(talk.ask("two", tasks(), seed=1)).text


@pytest.mark.parametrize("how", ["replaced", "removed", "renamed"])
def test_a_file_whose_name_goes_to_another_goes_on_as_it_was(
    path: Path, tmp_path: Path, how: str
) -> None:
    with opened(path) as model:
        before = answer(model)
        if how == "replaced":
            write_tiny(tmp_path / "other.gguf", "llama", seed=1).replace(path)
        elif how == "removed":
            path.unlink()
        else:
            path.rename(tmp_path / "elsewhere.gguf")
        assert answer(model) == before


def test_what_cannot_fit_is_refused_with_numbers_before_anything_is_loaded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 8 << 20)
    opened(path).unload()
    with pytest.raises(ModelError, match=r"(\d+) for 4000000 tokens.* 8 MiB are free: lower"):
        opened(path, n_ctx=4_000_000)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 10)
    with pytest.raises(ModelError, match="0 MiB are free"):
        opened(path)
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    opened(path).unload()


def test_a_width_that_nobody_asked_for_is_narrowed_before_anything_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, n_bytes = check_gguf(path), path.stat().st_size

    def room_for(width: int) -> None:
        n_free = memory.needed_bytes(header, n_bytes, 64, width)
        monkeypatch.setattr(memory, "available_bytes", lambda: n_free)

    def n_sequences(**more: str) -> int:
        settings = Settings(model=str(path), n_ctx=64, threads=1, **more)  # type: ignore[arg-type]
        with compose.open_language_model(settings) as model:
            assert answer(model)
            return model.capacity[1]

    wanted = compose.sequences_of_one_prompt(Settings())
    room_for(wanted)
    assert n_sequences() == wanted
    room_for(wanted - 1)
    assert n_sequences() == wanted // 2
    room_for(4)
    assert n_sequences() == 4
    with pytest.raises(ModelError, match=rf"for {wanted} rows of logits\), 0 MiB are free: lower"):
        n_sequences(width="2")
    room_for(3)
    with pytest.raises(ModelError, match=rf"for {wanted} rows of logits"):
        n_sequences()


def test_the_memory_of_this_machine_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal:       9000 kB\nMemAvailable:   5000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", info)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_bytes() == 5000 << 10
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() == 5000 << 10
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert memory.available_bytes() == 2_000_000
    info.unlink()
    assert memory.available_bytes() == 2_000_000
    (tmp_path / "memory.max").unlink()
    assert memory.available_bytes() is None


@pytest.mark.parametrize("code", [1, -1])
@pytest.mark.parametrize("at", range(6))
def test_a_decode_that_fails_is_recovered(
    at: int, code: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 is "out of cells", whatever was counted before; a negative code is an error of ours."""
    library = native()
    decode, armed = library.llama_decode, [False]
    calls = itertools.count()

    def flaky(context: object, batch: object) -> int:
        return code if armed[0] and next(calls) == at else int(decode(context, batch))

    monkeypatch.setattr(library, "llama_decode", flaky)
    with opened(path, n_ctx=64, n_seqs=16) as model:
        wanted = answer(model)
        trunk = model.open(PROMPT, Sampling()).trunk
        order = Order(trunk, tuple(Draw((i,), 8) for i in range(8)), Boundary(8))
        armed[0] = True
        try:
            (proposals,) = model.propose([order])
            assert code == 1
            assert 1 <= len(proposals) <= 8
        except ModelError as error:
            assert code == -1 or isinstance(error, OutOfCellsError)
        assert next(calls) > at
        armed[0] = False
        model.close(trunk)
        assert answer(model) == wanted
