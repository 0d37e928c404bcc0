"""Nothing is sent and nobody is asked: without an interface, and with every socket forbidden."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "tests.support.silence"]
ALONE = ["unshare", "--user", "--map-root-user", "--net"]
LOOK = "import socket; s = socket.socket(); s.settimeout(2); print(s.connect_ex(('127.0.0.1', 9)))"
ENETUNREACH = 101  # with an interface, even a loopback, it would be a refusal


def run(arguments: list[str], before: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(before or []), *PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=False,
    )


def assert_all_ended_well(done: subprocess.CompletedProcess[str]) -> None:
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"command"')]
    assert [each for each in said if each["code"] != 0] == []
    assert done.returncode == 0, done.stderr[-2000:]
    names = {each["command"][0] for each in said}
    assert {"generate", "chat", "eval", "calibrate", "models", "reward", "bench"} <= names
    assert {"doctor", "quants", "bundle"} <= names
    assert said[2]["command"][:2] == ["bundle", "install"], "all that follows uses what it wrote"


def test_no_command_opens_a_socket(tmp_path: Path) -> None:
    assert_all_ended_well(run([str(tmp_path), "--forbid"]))
    home = tmp_path / "home"
    left = [path for path in home.rglob("*") if path.is_file()]
    assert left == [], "a library left something in the home folder"
    kept = {path.name for path in (tmp_path / "xdg_cache_home").iterdir()}
    assert kept <= {"stars-local", "matplotlib"}, "a library keeps what we do not know of"


@pytest.mark.parametrize("how", ["python", "native"])
def test_a_socket_would_be_noticed(how: str, tmp_path: Path) -> None:
    if how == "native" and sys.platform != "linux":
        pytest.skip("native code can be watched on Linux only")
    done = run([str(tmp_path), "--forbid", "--break", how])
    assert done.returncode not in (0, 1) or "PermissionError" in done.stderr


def test_every_command_runs_without_any_interface_from_a_bundle_installed_there(
    tmp_path: Path,
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1) here")
    look = subprocess.run(
        [*ALONE, sys.executable, "-c", LOOK], capture_output=True, text=True, check=False
    )
    if look.returncode != 0:
        pytest.skip(f"no network namespace for us: {look.stderr.strip()[:200]}")
    assert look.stdout.strip() == str(ENETUNREACH)
    assert_all_ended_well(run([str(tmp_path)], ALONE))
