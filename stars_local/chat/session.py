"""The file of a conversation, written as it goes.

A session is a file of JSON lines: a header, then a record a line, each on the disk (fsync)
before anyone is shown what it says. So a crash at any moment loses nothing that was accepted;
a last line that was torn by one is cut off when the file is opened again.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from stars_local.chat.conversation import Conversation
from stars_local.chat.records import SCHEMA, Header, Record, from_line, to_line
from stars_local.core.closing import Closing
from stars_local.core.errors import DataError
from stars_local.core.files import write_atomically

ENVIRONMENT = "STARS_LOCAL_SESSIONS"
MAX_BYTES = 512 << 20
SUFFIX = ".jsonl"


def sessions_folder(environment: Mapping[str, str]) -> Path:
    """Where sessions are kept: STARS_LOCAL_SESSIONS, else the user's data folder."""
    chosen = environment.get(ENVIRONMENT)
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("stars-local") / "sessions"


def check_folder(folder: Path) -> None:
    """Make the folder and try it out. Raises DataError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"conversations cannot be saved in {folder}: {error.strerror}: make it writable, or "
            f"name another folder in {ENVIRONMENT}"
        ) from error


def latest(folder: Path) -> Path:
    """The session written to last. Raises DataError if there is none."""
    try:
        found = [(path.stat().st_mtime_ns, path) for path in folder.glob(f"*{SUFFIX}")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    if not found:
        raise DataError(f"there is no conversation to resume in {folder}: begin one without")
    return max(found)[1]


def read_session(path: Path) -> tuple[Header, list[Record], int]:
    """Header, records and the length in bytes of what is whole; a torn last line is left out.

    Raises DataError, naming the line, if the file is not a session or its records cannot have
    happened in this order.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES} bytes: no session is")
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    whole = raw.rfind(b"\n") + 1
    lines = raw[:whole].split(b"\n")[:-1]
    if not lines:
        raise DataError(f"{path}: the file is empty: no session begins so")
    header = from_line(lines[0], f"{path}, line 1")
    if not isinstance(header, Header):
        raise DataError(f"{path}, line 1: not the beginning of a session")
    records: list[Record] = []
    conversation = Conversation()
    for n, line in enumerate(lines[1:], start=2):
        record = from_line(line, f"{path}, line {n}")
        if isinstance(record, Header):
            raise DataError(f"{path}, line {n}: a second beginning: the file is damaged")
        try:
            conversation.apply(record)
        except DataError as error:
            raise DataError(f"{path}, line {n}: {error}: the file is damaged") from error
        records.append(record)
    return header, records, whole


def write_whole(path: Path, data: bytes) -> None:
    """Make a private file appear with this content, whole or not at all. Raises DataError."""
    try:
        write_atomically(path, data, private=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


class Session(Closing):
    """A conversation with its file. One process holds it at a time; close it, or use `with`.

    The file of a new session appears with its first record. `append` is the way to change the
    conversation: to the disk first, then to memory.
    """

    def __init__(self, path: Path, header: Header, records: Sequence[Record] = ()) -> None:
        self.path = path
        self.header = header
        self.conversation = Conversation(records)
        self._waiting = b"".join(map(to_line, (header, *records)))
        self._file: int | None = None
        self._size = 0

    @classmethod
    def create(cls, folder: Path, records: Sequence[Record] = ()) -> Session:
        """A new session in a folder, with these records to begin with."""
        now = datetime.now().astimezone()
        name = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        header = Header(SCHEMA, name, now.isoformat(timespec="seconds"))
        return cls(folder / f"{name}{SUFFIX}", header, records)

    @classmethod
    def resume(cls, path: Path) -> Session:
        """Go on with a session's file. Raises DataError if it is damaged or in use."""
        file = _open_locked(path)
        try:
            header, records, whole = read_session(path)
            os.ftruncate(file, whole)
        except BaseException as error:
            os.close(file)
            if isinstance(error, OSError):
                raise DataError(f"{path}: cannot be written: {error.strerror}") from error
            raise
        session = cls(path, header, records)
        session._waiting, session._file, session._size = b"", file, whole
        return session

    def append(self, record: Record) -> None:
        """Put a record on the disk and into the conversation.

        Raises DataError if it cannot be written; then neither holds it.
        """
        probe = to_line(record)
        if self._file is None:
            write_whole(self.path, self._waiting)
            self._file, self._size = _open_locked(self.path), len(self._waiting)
            self._waiting = b""
        try:
            _write_all(self._file, probe)
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise DataError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._size += len(probe)
        self.conversation.apply(record)

    def content(self) -> bytes:
        """The bytes of the session as they stand."""
        return self._waiting if self._file is None else self.path.read_bytes()[: self._size]

    def close(self) -> None:
        """Let go of the file. Harmless when repeated."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _open_locked(path: Path) -> int:
    """Open a file for appending, for one process at a time."""
    import fcntl

    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise DataError(f"{path}: another chat has this conversation open: close it") from error
    return file
