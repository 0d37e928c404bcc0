"""Processes of our own: they find the package, and nothing of the working directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stars_local.core.children import child_command, child_environment, lifeline


def _said(program: str, *arguments: str, folder: Path) -> str:
    return subprocess.run(
        child_command(program, *arguments),
        env=child_environment(gpu=False),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_a_child_imports_the_package_and_nothing_that_lies_about(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong module')\n")
    (tmp_path / "stars_local.py").write_text("raise SystemExit('the wrong package')\n")
    program = "import json, sys; from stars_local.core import seeds; print(sys.argv[1])"
    assert _said(program, "given", folder=tmp_path) == "given\n"


def test_a_path_given_by_hand_is_kept_behind_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "found_by_path.py").write_text("print('here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert _said("import stars_local, found_by_path", folder=tmp_path) == "here\n"


@pytest.mark.parametrize("gpu", [False, True])
def test_devices_are_hidden_from_those_that_need_none(
    monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert child_environment(gpu=gpu)["CUDA_VISIBLE_DEVICES"] == ("1" if gpu else "")


_PARENT = """
import subprocess, sys
from stars_local.core.children import child_command, child_environment, lifeline
program = "from stars_local.core.children import end_with_parent as f; f(); print('up', flush=True)"
with lifeline() as held, subprocess.Popen(
    child_command(program + "; import time; time.sleep(5); print(1)"), stdin=held,
    env=child_environment(gpu=False),
) as child:
    child.wait()
"""


def test_a_child_ends_with_its_parent_however_that_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        parent.kill()
        assert parent.stdout.read() == b"", "ends when the child, which holds it too, has ended"


def test_a_child_that_ends_first_is_not_disturbed() -> None:
    program = "from stars_local.core.children import end_with_parent; end_with_parent(); print(1)"
    for _ in range(5):
        with lifeline() as held:
            done = subprocess.run(
                child_command(program),
                stdin=held,
                env=child_environment(gpu=False),
                capture_output=True,
                text=True,
                check=True,
            )
        assert (done.stdout, done.stderr) == ("1\n", "")
