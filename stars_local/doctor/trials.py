"""What may hang or die is tried in a process of its own: native libraries, GPUs, models.

`try_in_child(job, ...)` starts `python -c` with this module's `main`, which prints one JSON
object as its last line. What a library writes elsewhere is not shown.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from typing import Any

from stars_local.core.children import child_command, child_environment
from stars_local.core.errors import StarsError
from stars_local.reward.runtime import onnxruntime

_PROGRAM = "from stars_local.doctor.trials import main; main()"
SPEED_WIDTHS = (1, 4, 16)


class TrialFailed(Exception):
    """The child refused or died; the message is one line."""


def start(job: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a job of `JOBS`; `finish` has its result."""
    return subprocess.Popen(
        child_command(_PROGRAM, job, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(gpu=True),
    )


def finish(process: subprocess.Popen[bytes], limit_s: float) -> dict[str, Any]:
    """A job's result. Raises TrialFailed, and leaves no process behind, whatever ends it."""
    try:
        out, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise TrialFailed(f"took longer than {limit_s:g} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode < 0:
        with contextlib.suppress(ValueError):
            raise TrialFailed(f"was killed by {signal.Signals(-process.returncode).name}")
    try:
        found = json.loads(out.splitlines()[-1])
    except (ValueError, IndexError):
        raise TrialFailed(f"exited with {process.returncode} and said nothing") from None
    if not isinstance(found, dict) or "error" in found:
        raise TrialFailed(str(found["error"]) if isinstance(found, dict) else "no object")
    return found


def llama() -> dict[str, Any]:
    """The build of llama.cpp, its devices, and whether it offloads."""
    from llama_cpp import _ggml

    from stars_local.llama.library import build, native

    lib = native()
    ggml = _ggml.libggml
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    devices = []
    for i in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(i)
        texts = []
        for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
            function = getattr(ggml, name)
            function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
            texts.append(function(device).decode("utf-8", "replace"))
        devices.append(f"{texts[0]} ({texts[1]})")
    return {
        "build": build(),
        "devices": devices,
        "offloads": bool(lib.llama_supports_gpu_offload()),
    }


def providers() -> dict[str, Any]:
    """The execution providers that ONNX Runtime was built with."""
    ort = onnxruntime()
    return {"version": ort.__version__, "providers": list(ort.get_available_providers())}


def provider(name: str, reward: str) -> dict[str, Any]:
    """Open a reward model on a provider: it must score as the golden scores say."""
    opened, _ = _open_reward(reward, name)
    return {"provider": opened.provider, "name": opened.manifest.name}


def pair(model: str, reward: str) -> dict[str, Any]:
    """Open both models: the rollback strategy and the calibration."""
    from stars_local import compose
    from stars_local.calibration.records import find_calibration
    from stars_local.calibration.store import calibration_folders
    from stars_local.settings import Settings

    settings = Settings(model=model, reward=reward)
    with compose.open_models(settings) as models:
        language = models.language
        key = compose.calibration_key(settings, models)
        calibration = find_calibration(key, calibration_folders())
        return {
            "quant": language.info.quant,
            "n_ctx": language.info.n_ctx,
            "strategy": language.strategy.value,
            "reason": language.strategy_reason,
            "calibration": None if calibration is None else key.file_name,
        }


def speed(model: str) -> dict[str, Any]:
    """Tokens a second by width, remembered from an earlier run or measured now."""
    from stars_local import compose
    from stars_local.settings import Settings

    with compose.open_models(Settings(model=model), scores=False) as models:
        costs = compose.measured_steps(models).by_width  # fewer where the memory is short
        return {str(w): w / costs[w] for w in SPEED_WIDTHS if w in costs}


def _open_reward(reward: str, name: str) -> tuple[Any, bool]:
    from stars_local.compose import render_chat
    from stars_local.reward.onnx_model import OnnxRewardModel
    from stars_local.reward.resolve import find_model

    folder, shipped = find_model(reward)
    model = OnnxRewardModel(folder, provider=name, trusted=shipped, render=render_chat)
    return model, shipped


JOBS = {"llama": llama, "providers": providers, "provider": provider, "pair": pair, "speed": speed}


def main() -> None:
    """Do the job that the arguments name, and print its result as one line of JSON."""
    job, *arguments = sys.argv[1:]
    try:
        found = JOBS[job](*arguments)  # type: ignore[operator]
    except StarsError as error:
        found = {"error": str(error)}
    except Exception as error:  # a report must not end where the machine is broken
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    print()  # after whatever a library printed without a newline
    print(json.dumps(found), flush=True)
    os._exit(0)  # a provider that crashes while it is unloaded has passed all the same
