"""The wheel and the source archive: whole, and enough to answer outside the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.model

ROOT = Path(__file__).parents[2]
REWARD = ROOT / "models" / "hh-minilm"
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


SAMPLING = "--seed 0 --width 2 --threads 1 --n-ctx 512 --segment-size 8 --max-new-tokens 16"
STEERING = "--alpha 0.5 --beta 0.3 --reward-threshold 1 --max-attempts 2"
OPTIONS = [*SAMPLING.split(), *STEERING.split(), "--model", str(MODEL)]


def _build(kind: str, out: Path) -> Path:
    """Build by the project's own backend, without asking any index for it."""
    program = (
        f"from hatchling import build; import sys; print(build.build_{kind}(sys.argv[1]), end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(out)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module", name="wheel")
def _wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", name="installed")
def _installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; what the wheel needs is borrowed from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "-q"]
    done = subprocess.run([*pip, "--no-index", str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def _run(
    installed: Path, *arguments: str, typed: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command of the installed wheel, in a working folder and a home that hold nothing."""
    home = installed / "home"
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        arguments,
        cwd=home,
        env={**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", **environment},
        input=typed,
        capture_output=True,
        text=True,
    )


def test_the_wheel_holds_the_reward_model_and_nothing_of_the_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for path in REWARD.iterdir():
            assert archive.read(f"stars_local/models/hh-minilm/{path.name}") == path.read_bytes()
    assert {"stars_local/py.typed", "stars_local/cli/app.py"} <= names
    assert not [name for name in names if name.startswith("tests/") or name.endswith(".gguf")]


def test_the_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = _build("sdist", tmp_path)
    assert archive.stat().st_size < 40 << 20
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    program = "from hatchling import build; import sys; build.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=source, check=True)
    with zipfile.ZipFile(tmp_path / wheel.name) as built, zipfile.ZipFile(wheel) as given:
        ours, theirs = ({each.filename: each.CRC for each in x.infolist()} for x in (built, given))
    assert ours == theirs


def test_the_installed_wheel_answers_with_the_shipped_reward_model(installed: Path) -> None:
    python = str(installed / "venv" / "bin" / "python")
    where = _run(installed, python, "-c", "import stars_local; print(stars_local.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed), where.stderr
    command = str(installed / "venv" / "bin" / "stars-local")
    done = _run(installed, command, "generate", *OPTIONS, "--json", "Say hello.")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["text"]
    shipped = json.loads((REWARD / "reward.json").read_text())
    assert answer["reward_model"]["sha256"] == shipped["sha256"]
    assert all(segment["reward"] is not None for segment in answer["segments"])


def test_the_installed_wheel_chats(installed: Path) -> None:
    command = str(installed / "venv" / "bin" / "stars-local")
    typed = "Say hello.\n/why\nAnd goodbye.\n"
    done = _run(installed, command, "chat", *OPTIONS, typed=typed)
    assert done.returncode == 0, done.stderr
    (session,) = (installed / "home").rglob("*.jsonl")
    kinds = [json.loads(line)["type"] for line in session.read_text("utf-8").splitlines()]
    assert kinds.count("question") == kinds.count("answer") == 2, kinds
    assert done.stdout.strip()


def test_pipx_installs_the_wheel(wheel: Path, installed: Path, tmp_path: Path) -> None:
    """What the wheel needs is borrowed, as above, and so not asked for: pipx insists on it."""
    pipx = shutil.which("pipx")
    if pipx is None:
        pytest.skip("no pipx here")
    places = {"PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    own_pip = _run(installed, pipx, "environment", **places)
    if own_pip.returncode != 0:
        pytest.skip(f"a pipx that does not start: {own_pip.stderr[:200]}")
    alone = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as given, zipfile.ZipFile(alone, "w") as written:
        for entry in given.infolist():
            data = given.read(entry)
            if entry.filename.endswith(".dist-info/METADATA"):
                data = re.sub(rb"(?m)^Requires-Dist: .*\n", b"", data)
            written.writestr(entry, data)
    install = [pipx, "install", "--pip-args=--no-index", "--skip-maintenance", str(alone)]
    done = _run(installed, *install, **places)
    assert done.returncode == 0, done.stderr
    (site,) = (tmp_path / "home").glob("venvs/stars-local/lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    said = _run(installed, str(tmp_path / "bin" / "stars-local"), "--version")
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == wheel.name.split("-")[1]


def test_the_installed_wheel_keeps_models_in_the_users_folder(installed: Path) -> None:
    command = str(installed / "venv" / "bin" / "stars-local")
    done = _run(installed, command, "models", "path")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed / "home")
