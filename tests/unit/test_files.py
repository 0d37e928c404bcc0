"""Files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stars_local.core.files import write_atomically


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o640)])
def test_a_file_is_replaced_with_the_rights_it_should_have(
    tmp_path: Path, private: bool, mode: int
) -> None:
    before = os.umask(0o027)
    try:
        for content in (b"first", b"second"):
            write_atomically(tmp_path / "f", content, private=private)
    finally:
        os.umask(before)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"second"
    assert (tmp_path / "f").stat().st_mode & 0o777 == mode


def test_what_goes_wrong_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "f", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom stars_local.core import files\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomically(Path('a.json'), b'x')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    [left] = tmp_path.iterdir()
    write_atomically(tmp_path / "b.json", b"y")
    assert left.exists()  # its writer may be alive
    os.utime(left, (0, 0))
    with left.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        write_atomically(tmp_path / "b.json", b"y")
        assert left.exists()  # it is
    write_atomically(tmp_path / "b.json", b"y")
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
