"""Processes of our own: they find the package, and nothing of the working directory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stars_local.core.children import child_command, child_environment


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
