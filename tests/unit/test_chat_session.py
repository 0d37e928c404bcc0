"""Session files: nothing accepted is lost, torn ends are cut, forgeries are refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stars_local.chat.records import Asked, Record, to_line
from stars_local.chat.session import (
    Session,
    check_folder,
    latest,
    read_session,
    sessions_folder,
)
from stars_local.core.errors import DataError
from stars_local.core.records import Finish
from tests.unit.test_chat_conversation import MODEL, ended, kept

RECORDS: list[Record] = [
    MODEL,
    Asked("first", 1, 0),
    kept(0, "one ", (1, 2)),
    kept(1, "two", (3,)),
    ended(),
    Asked("second", 1, 1),
    kept(0, "é\n", (4,)),
    ended(Finish.INTERRUPTED),
]


def written(folder: Path, records: list[Record] = RECORDS) -> Path:
    with Session.create(folder) as session:
        for record in records:
            session.append(record)
        return session.path


def test_a_session_appears_with_its_first_record(tmp_path: Path) -> None:
    with Session.create(tmp_path) as session:
        assert list(tmp_path.iterdir()) == []
        session.append(MODEL)
        assert list(tmp_path.iterdir()) == [session.path]


def test_a_record_is_in_the_file_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    with Session.create(tmp_path) as session:
        for n, record in enumerate(RECORDS, start=1):
            session.append(record)
            assert read_session(session.path)[1] == RECORDS[:n]
            assert session.content() == session.path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1), junk=st.binary(max_size=8))
def test_resume_after_a_crash_at_any_byte(tmp_path: Path, cut: float, junk: bytes) -> None:
    """What was whole on the disk comes back, what was torn goes, and appending goes on."""
    path = written(tmp_path)
    raw = path.read_bytes()
    first = raw.index(b"\n") + 1
    torn = raw[: first + round(cut * (len(raw) - first))] + junk.replace(b"\n", b"")
    path.write_bytes(torn)
    n_whole = torn.count(b"\n") - 1
    with Session.resume(path) as session:
        assert session.conversation.n_asked == sum(
            isinstance(record, Asked) for record in RECORDS[:n_whole]
        )
        session.append(MODEL)
    assert read_session(path)[1] == [*RECORDS[:n_whole], MODEL]
    path.unlink()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999), byte=st.integers(0, 255))
def test_a_flipped_byte_is_read_or_refused_in_one_line(
    tmp_path: Path, place: float, byte: int
) -> None:
    path = written(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[int(place * len(raw))] = byte
    path.write_bytes(raw)
    try:
        read_session(path)
    except DataError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    path.unlink()


@pytest.mark.parametrize("content", [b"", b"hello", b"hello\n", b"\n", to_line(MODEL), b"\0" * 99])
def test_what_is_no_session_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jsonl"):
        Session.resume(path)
    assert path.read_bytes() == content


def test_records_in_an_impossible_order_are_refused_with_their_line(tmp_path: Path) -> None:
    path = written(tmp_path, RECORDS[:3])
    path.write_bytes(path.read_bytes() + to_line(ended()) * 2)
    with pytest.raises(DataError, match="line 6"):
        read_session(path)


def test_a_session_is_open_once(tmp_path: Path) -> None:
    path = written(tmp_path)
    with Session.resume(path), pytest.raises(DataError, match="another chat"):
        Session.resume(path)
    Session.resume(path).close()


def test_a_full_disk_tears_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session.create(tmp_path) as session:
        session.append(MODEL)
        write = os.write

        def half(file: int, data: bytes) -> int:
            if len(data) < 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, data[: len(data) - 5])

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(DataError, match="No space left"):
                session.append(RECORDS[1])
        assert session.conversation.turns == []
        session.append(RECORDS[1])
        assert read_session(session.path)[1] == RECORDS[:2]


def test_the_last_one_is_the_one_written_to_last(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no conversation to resume"):
        latest(tmp_path)
    paths = [written(tmp_path) for _ in range(3)]
    for n, path in enumerate(paths):
        os.utime(path, ns=(10 - n, 10 - n))
    (tmp_path / "history").write_text("newer")
    assert latest(tmp_path) == paths[0]


def test_the_folder_comes_from_the_environment_or_the_user(tmp_path: Path) -> None:
    assert sessions_folder({"STARS_LOCAL_SESSIONS": str(tmp_path)}) == tmp_path
    assert sessions_folder({}).name == "sessions"


def test_a_folder_that_cannot_be_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match="STARS_LOCAL_SESSIONS"):
            check_folder(folder)
    check_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        check_folder(tmp_path)
