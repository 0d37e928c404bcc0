"""All checks in their order. Trials run side by side, within a time limit each."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stars_local.catalog.folder import models_folder
from stars_local.catalog.known import KNOWN
from stars_local.catalog.manifests import manifest_of
from stars_local.catalog.resolve import resolve
from stars_local.core.errors import StarsError
from stars_local.doctor import checks, trials
from stars_local.doctor.checks import Check
from stars_local.doctor.trials import TrialFailed
from stars_local.llama.memory import available_bytes
from stars_local.reward.resolve import find_model

LIMIT_S = 60.0
SPEED_LIMIT_S = 15.0  # an idle machine needs about five, once
_SHORT = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "CoreMLExecutionProvider": "coreml",
}
_CPU_INSTEAD = "none needed: rewards are computed on the CPU"


def examine(model: str, reward: str, models_dir: Path | None) -> Iterator[Check]:
    """Check after check. Raises nothing on purpose: what is broken is a finding."""
    yield checks.about_python()
    yield checks.about_packages()
    yield checks.about_cpu()
    yield checks.about_memory(available_bytes(), checks.total_memory())
    folder = models_folder(models_dir)
    yield checks.about_disk(folder)
    started = {"llama": trials.start("llama"), "providers": trials.start("providers")}
    try:
        yield from _gpus()
        yield from _llama(started["llama"])
        try:
            place = find_model(reward, folder)[0]
        except StarsError as error:
            remedy = "give --reward a name that is known, or the folder of a reward model"
            yield Check("reward", "failure", str(error), remedy)
            place = None
        yield from _providers(started["providers"], place)
        yield from _model(model, reward, folder, place)
    finally:
        for process in started.values():  # those that nobody waited for
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _gpus() -> Iterator[Check]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield Check("gpu", "good", "none that NVIDIA's tools know of; the CPU is used")
        return
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        yield Check("gpu", "warning", "nvidia-smi does not answer", "look after the NVIDIA driver")
        return
    yield Check("gpu", "good", "; ".join(line.strip() for line in told.splitlines()) or "none")


def _llama(process: subprocess.Popen[bytes]) -> Iterator[Check]:
    try:
        found = trials.finish(process, LIMIT_S)
    except TrialFailed as error:
        yield Check("llama.cpp", "failure", str(error), "install llama-cpp-python again")
        return
    yield Check("llama.cpp", "good", found["build"])
    devices = ", ".join(found["devices"]) or "none"
    where = "all layers of a model that fits" if found["offloads"] else "nothing: a CPU build"
    yield Check("backends", "good", f"{devices}; offloaded: {where}")


def _providers(process: subprocess.Popen[bytes], reward: Path | None) -> Iterator[Check]:
    try:
        found = trials.finish(process, LIMIT_S)
    except TrialFailed as error:
        yield Check("onnxruntime", "failure", str(error), "install onnxruntime again")
        return
    known = [_SHORT[name] for name in found["providers"] if name in _SHORT]
    others = [name for name in found["providers"] if name not in _SHORT]
    listed = ", ".join(known + [f"{name} (not used)" for name in others])
    yield Check("onnxruntime", "good", f"{found['version']}, built with {listed}")
    if reward is None:
        return  # there is nothing to try them with
    others_do = _CPU_INSTEAD
    order = sorted(known, key=lambda name: (name != "cpu", name))
    running = {name: trials.start("provider", name, str(reward)) for name in order}
    for name, trial in running.items():
        try:
            done = trials.finish(trial, LIMIT_S)
        except TrialFailed as error:
            what = f"provider {name}"
            if name == "cpu":
                others_do = "see 'stars-local reward check' and 'stars-local models verify'"
                yield Check(what, "failure", str(error), others_do)
            else:
                yield Check(what, "warning", str(error), others_do)
        else:
            yield Check(f"provider {name}", "good", f"loads; {done['name']} scores as it should")


def _model(model: str, reward: str, folder: Path, place: Path | None) -> Iterator[Check]:
    try:
        path = resolve(model, folder)
    except StarsError as error:
        remedy = f"stars-local models pull {model}"
        if model not in KNOWN:
            remedy = "give --model a name of 'stars-local models list', or a GGUF file"
        yield Check("model", "failure", str(error), remedy)
        return
    try:
        size = path.stat().st_size
    except OSError as error:  # a link whose file went away
        found = f"{path.name}: {error.strerror}"
        yield Check("model", "failure", found, "remove it, and pull or import it again")
        return
    try:
        known = manifest_of(folder, path.name) if path.parent == folder else None
    except StarsError as error:
        yield Check("manifest", "warning", str(error), "remove it and import the model again")
        known = None
    if known is not None and known.size_bytes != size:
        found = f"{path.name} has {size} bytes, {known.size_bytes} when it came"
        yield Check("model", "failure", found, "remove it, and pull or import it again")
        return
    if place is not None:
        try:
            result = trials.finish(trials.start("pair", str(path), str(place)), LIMIT_S)
        except TrialFailed as error:
            yield Check("model", "failure", f"{path.name}: {error}", "stars-local models verify")
            return
        yield from _opened(path.name, result, reward)
    try:
        rates = trials.finish(trials.start("speed", str(path)), SPEED_LIMIT_S)
    except TrialFailed as error:
        yield Check("speed", "warning", str(error), "run it again while the machine is idle")
    else:
        speeds = ", ".join(f"{rate:.0f} at width {w}" for w, rate in rates.items())
        yield Check("speed", "good", f"tokens/s drawn: {speeds}")


def _opened(name: str, result: dict[str, Any], reward: str) -> Iterator[Check]:
    yield Check("model", "good", f"{name}, {result['quant']}, context {result['n_ctx']} tokens")
    yield Check("rollback", "good", f"{result['strategy']}: {result['reason']}")
    if result["calibration"] is None:
        found = f"none for {name} with {reward}"
        yield Check("calibration", "warning", found, "stars-local calibrate, once, for this pair")
    else:
        yield Check("calibration", "good", result["calibration"])
