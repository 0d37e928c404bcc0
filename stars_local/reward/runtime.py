"""ONNX Runtime, imported in this one place: it is to tell nobody that it runs.

Its own builds for Linux and macOS (1.31 at least) write a device id into the user's cache and send
events to their maker, unless the environment says otherwise before the library is loaded; asking
it afterwards comes too late for the first event.
"""

from __future__ import annotations

import functools
import os
from typing import Any

_OPT_OUT = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED")  # the name has changed


@functools.cache
def onnxruntime() -> Any:
    """The library, its telemetry off. Raises ImportError where it is not installed."""
    for name in _OPT_OUT:
        os.environ[name] = "1"
    import onnxruntime as ort

    ort.disable_telemetry_events()
    return ort
