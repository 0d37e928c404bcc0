"""`stars-local bundle create --wheels`: the real pip, offline, on wheels of a few bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stars_local.bundles.scratch import scratch_folder, sweep
from tests.support.tiny_wheel import write_wheel

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from stars_local.bundles import wheels
wheels.CHECKOUT = Path(sys.argv.pop(1)).absolute()
from stars_local.cli.app import main
main()
"""
BACKEND = """
import shutil
from pathlib import Path

def build_wheel(folder, settings=None, metadata=None):
    (ready,) = Path("ready").iterdir()
    shutil.copy(ready, folder)
    return ready.name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "stars-local"
version = "7"
"""


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Path:
    """Nothing but an index for pip, and the folders that a run may write to."""
    for name in ("index", "tmp", "data", "out", "checkout"):
        (tmp_path / name).mkdir()
    write_wheel(tmp_path / "index", "needed", "1", {"needed.py": b""})
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(place / "index"),
        "PIP_NO_CACHE_DIR": "1",
        "TMPDIR": str(place / "tmp"),
        "XDG_DATA_HOME": str(place / "data"),
        "STARS_LOCAL_MODELS_DIR": str(place / "models"),
    }


def command(checkout: str, *words: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, checkout, "bundle", *words]


def run(
    place: Path, *words: str, checkout: str = "nowhere", code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(checkout, *words),
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def wheels_in(place: Path) -> list[str]:
    listed = json.loads(run(place, "verify", "out/w.tar", "--json").stdout)
    return [row["name"] for row in listed["items"] if row["name"].startswith("wheels/")]


def left_in(place: Path) -> list[str]:
    """What lies in the folder of bundles and in the one for temporary files."""
    found = [*(place / "out").iterdir(), *(place / "tmp").iterdir()]
    return [path.relative_to(place).as_posix() for path in found]


def test_pip_gathers_this_version_and_what_it_needs(place: Path) -> None:
    from importlib.metadata import version

    ours = write_wheel(
        place / "index", "stars_local", version("stars-local"), {"a.py": b""}, needs=["needed"]
    )
    run(place, "create", "out/w.tar", "--wheels")
    assert wheels_in(place) == ["wheels/needed-1-py3-none-any.whl", f"wheels/{ours.name}"]
    assert left_in(place) == ["out/w.tar"]


def test_in_a_checkout_the_checkout_is_built(place: Path) -> None:
    (place / "checkout" / "pyproject.toml").write_text(PROJECT)
    (place / "checkout" / "backend.py").write_text(BACKEND)
    (place / "checkout" / "ready").mkdir()
    write_wheel(place / "checkout" / "ready", "stars_local", "7", {"a.py": b""}, needs=["needed"])
    run(place, "create", "out/w.tar", "--wheels", checkout="checkout")
    built = "wheels/stars_local-7-py3-none-any.whl"
    assert wheels_in(place) == ["wheels/needed-1-py3-none-any.whl", built]
    assert left_in(place) == ["out/w.tar"]


def test_a_pip_that_fails_is_one_line_of_ours_and_leaves_nothing(place: Path) -> None:
    done = run(place, "create", "out/w.tar", "--wheels", code=1)
    ours = [line for line in done.stderr.splitlines() if line.startswith("stars-local: ")]
    assert ours == ["stars-local: pip could not gather the wheels; what it said is above"]
    assert "No matching distribution" in done.stderr
    assert left_in(place) == []


def test_a_kill_while_pip_works_leaves_what_the_next_bundle_sweeps(place: Path) -> None:
    (place / "checkout" / "pyproject.toml").write_text(PROJECT)
    (place / "checkout" / "backend.py").write_text("import time\ntime.sleep(60)\n")
    words = ["create", "out/w.tar", "--wheels"]
    with subprocess.Popen(
        command("checkout", *words), cwd=place, env=environment(place), stderr=subprocess.DEVNULL
    ) as process:
        ends = time.monotonic() + 30
        while not list(place.glob("out/.*/pip/*")) and time.monotonic() < ends:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    (left,) = (place / "out").iterdir()
    os.utime(left, (0, 0))
    (place / "p.jsonl").write_text("{}")
    run(place, "create", "out/w.tar", "--prompts", "p.jsonl")
    assert left_in(place) == ["out/w.tar"]


def test_a_folder_in_use_is_not_swept_and_neither_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").touch()
    (tmp_path / ".bundle-x.unfinished").symlink_to(tmp_path / "mine")
    with scratch_folder(tmp_path / "b.tar") as folder:
        (folder / "file").touch()
        for each in (folder, tmp_path / "mine"):
            os.utime(each, (0, 0))
        sweep(tmp_path)
        assert (folder / "file").exists() and (tmp_path / "mine" / "kept").exists()
    assert not folder.exists()
