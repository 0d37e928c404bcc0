"""Make `.venv` and install the project into it; what `make` runs first.

Standard library only: it runs on the system's Python. Does nothing the second time, unless the
dependencies, the extras or the accelerator changed. The long part is llama.cpp, which is built
from source for the accelerator found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "stars-local.json"
CMAKE_ARGS = {
    "cpu": "",
    "cuda": "-DGGML_CUDA=on",
    "metal": "-DGGML_METAL=on",
    "vulkan": "-DGGML_VULKAN=on",
}
BUILD_S = 300.0  # a full build on two cores takes about this long


def main() -> int:
    """Install what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accel", choices=["auto", *CMAKE_ARGS], default="auto")
    parser.add_argument("--extras", default="")
    args = parser.parse_args()
    stamp = read_stamp()
    accel = args.accel
    if accel == "auto":
        accel = str(stamp["accel"]) if stamp else detect()
    extras = set(filter(None, args.extras.split(",")))
    fingerprint = hash_of("pyproject.toml", "constraints.txt", "scripts/install.py")
    kept = set(stamp["extras"]) if stamp and isinstance(stamp["extras"], list) else set()
    same_build = bool(stamp) and stamp["accel"] == accel
    if same_build and stamp["fingerprint"] == fingerprint and extras <= kept:
        return 0
    if not shutil.which("cmake") and not (same_build and stamp):
        print("cmake is missing: install cmake and a C++ compiler first", file=sys.stderr)
        return 1
    say(f"accelerator: {accel} (choose with ACCEL=cuda|metal|vulkan|cpu)")
    if not (VENV / "bin" / "python").exists():
        say(f"making {VENV.name} with Python {platform.python_version()}")
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    python = str(VENV / "bin" / "python")
    extras |= kept
    if not same_build:
        code = build_llama(python, accel)
        if code != 0:
            return code
    target = f".[{','.join(sorted(extras))}]" if extras else "."
    say(f"installing {target} (a few minutes where wheels must be downloaded)")
    code = pip(python, ["-q", "-c", "constraints.txt", "-e", target])
    if code != 0 or not only_one_runtime(python):
        return code if code != 0 else 1
    STAMP.write_text(
        json.dumps({"accel": accel, "fingerprint": fingerprint, "extras": sorted(extras)})
    )
    return 0


def detect() -> str:
    """The accelerator that this machine offers and can build for."""
    if platform.system() == "Darwin":
        return "metal" if platform.machine() == "arm64" else "cpu"
    if shutil.which("nvcc") and shutil.which("nvidia-smi"):
        probe = subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False)
        if probe.returncode == 0 and b"GPU" in probe.stdout:
            return "cuda"
    if shutil.which("glslc") and shutil.which("vulkaninfo"):
        return "vulkan"
    return "cpu"


def build_llama(python: str, accel: str) -> int:
    """Build llama-cpp-python as pinned in pyproject.toml, showing how far it is."""
    pin = re.search(r'"(llama-cpp-python==[^"]+)"', (ROOT / "pyproject.toml").read_text())
    if pin is None:
        print("pyproject.toml does not pin llama-cpp-python", file=sys.stderr)
        return 1
    arguments = [python, "-m", "pip", "install", "-v", "-c", "constraints.txt", pin[1]]
    if accel != "cpu":
        # pip's cache does not know for which accelerator a wheel was built
        arguments += ["--no-cache-dir", "--force-reinstall", "--no-binary", "llama-cpp-python"]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment["CMAKE_ARGS"] = f"{CMAKE_ARGS[accel]} {environment.get('CMAKE_ARGS', '')}".strip()
    environment.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    say(f"installing {pin[1]}; a build from source takes about {BUILD_S / 60:.0f} min on two cores")
    log = VENV / "llama-build.log"
    started, shown = time.monotonic(), 0.0
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for line in process.stdout or ():
            file.write(line)
            step = re.search(r"\[(\d+)/(\d+)\]", line)
            now = time.monotonic()
            if step and now - shown > (2 if sys.stderr.isatty() else 20):
                shown = now
                done, total = int(step[1]), int(step[2])
                left = (now - started) * (total - done) / max(1, done)
                say(f"building llama.cpp: {done} of {total}, about {left:.0f} s left")
        code = process.wait()
    if code != 0:
        tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-15:])
        print(f"{tail}\nbuilding llama.cpp failed; the whole log: {log}", file=sys.stderr)
    return code


def only_one_runtime(python: str) -> bool:
    """Refuse an environment that holds both builds of ONNX Runtime: they overwrite each other."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {package["name"] for package in json.loads(listed.stdout)}
    if {"onnxruntime", "onnxruntime-gpu"} <= names:
        print(
            "onnxruntime and onnxruntime-gpu are both installed: remove .venv and run again",
            file=sys.stderr,
        )
        return False
    return True


def pip(python: str, arguments: list[str]) -> int:
    """Run pip's install; its own words go to stderr."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode


def read_stamp() -> dict[str, object]:
    """What was installed last; empty where nothing was, or something unreadable."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    keys = {"accel", "fingerprint", "extras"}
    return stamp if isinstance(stamp, dict) and keys <= set(stamp) else {}


def hash_of(*names: str) -> str:
    """One hash of files of the project."""
    digest = hashlib.sha256()
    for name in names:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def say(line: str) -> None:
    """Commentary goes to stderr."""
    print(f"stars-local: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
