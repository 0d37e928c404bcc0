"""One finding a line, and those about the machine itself that need no native code."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

State = Literal["good", "warning", "failure"]

LOW_MEMORY_BYTES = 1 << 30  # the default model, its context and the reward model take half of it
LOW_DISK_BYTES = 1 << 30
PACKAGES = ("stars-local", "llama-cpp-python", "tokenizers", "numpy", "jinja2")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
# what llama.cpp has own kernels for, most useful first; names as Linux spells them
_FEATURES = (
    "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_int8", "avx512f", "avx2", "fma", "f16c",
    "asimddp", "i8mm", "sve", "bf16",
)  # fmt: skip
_FAST = {"avx2", "asimddp"}
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Check:
    """What was found about one part. remedy: what to do; None only where the state is good."""

    name: str
    state: State
    found: str
    remedy: str | None = None

    def __post_init__(self) -> None:
        if (self.state == "good") == (self.remedy is not None):
            raise ValueError(f"{self.name}: a {self.state} finding with the remedy {self.remedy}")


def about_python() -> Check:
    """Python, the system and the machine; no host name and no folder."""
    found = f"{platform.python_version()} on {platform.system()} {platform.release()}"
    found += f", {platform.machine()}"
    if (3, 11) <= sys.version_info[:2] < (3, 15):
        return Check("python", "good", found)
    return Check("python", "warning", found, "use Python 3.11 to 3.14")


def about_packages() -> Check:
    """Versions of what the answers depend on, and exactly one ONNX Runtime."""
    versions = {name: _version(name) for name in (*PACKAGES, *RUNTIMES)}
    found = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    missing = [name for name in PACKAGES if versions[name] is None]
    runtimes = [name for name in RUNTIMES if versions[name] is not None]
    if missing or not runtimes:
        names = ", ".join(missing or ["onnxruntime"])
        return Check("packages", "failure", f"{found}; not installed: {names}", "install it again")
    if len(runtimes) > 1:
        remedy = "pip uninstall both, then install one: they overwrite each other's files"
        return Check("packages", "warning", found, remedy)
    return Check("packages", "good", found)


def about_cpu(cpuinfo: Path = _CPUINFO) -> Check:
    """Cores that may be used, and the features that kernels ask for."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = model[1] if model else platform.machine()
    found = f"{name}, {n_cores} usable cores"
    if listed is None:  # no such file outside Linux: nothing is known against the machine
        return Check("cpu", "good", f"{found}, features not listed by this system")
    flags = set(listed[1].split())
    has = [feature for feature in _FEATURES if feature in flags]
    found += f", {' '.join(has) or 'no vector features that matter here'}"
    if _FAST & flags:
        return Check("cpu", "good", found)
    return Check("cpu", "warning", found, "expect slow answers: use a small model, and a Q4_0 file")


def about_memory(available: int | None, total: int | None = None) -> Check:
    """Bytes that a new process could take; None where the system does not say."""
    if available is None:
        return Check("memory", "warning", "unknown on this system", "watch it while a model loads")
    found = f"{available >> 20} MiB available"
    if total is not None:
        found += f" of {total >> 20} MiB"
    if available < LOW_MEMORY_BYTES:
        return Check("memory", "warning", found, "close other programs, or lower --n-ctx")
    return Check("memory", "good", found)


def total_memory() -> int | None:
    """Bytes of the machine's memory, None where it is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def about_disk(folder: Path) -> Check:
    """Room where model files are kept, and whether it can be written."""
    place = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check("disk", "failure", f"{error.strerror}", "choose another --models-dir")
    found = f"{free >> 20} MiB free for models"
    if not os.access(place, os.W_OK):
        return Check(
            "disk", "warning", f"{found}, read-only", "to pull, choose another --models-dir"
        )
    if free < LOW_DISK_BYTES:
        return Check("disk", "warning", found, "make room before a model is pulled")
    return Check("disk", "good", found)


def exit_code(checks: list[Check]) -> int:
    """1 where something failed; warnings do not count."""
    return int(any(check.state == "failure" for check in checks))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
