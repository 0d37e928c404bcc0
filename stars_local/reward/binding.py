"""A run of a network whose inputs and outputs are bound to their devices beforehand.

Given plain arrays, ONNX Runtime finds out anew in every run where each belongs and copies it
there. Bound, inputs lie on the network's device when the run begins, and outputs on the CPU when
it ends, where the scores are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stars_local.reward.runtime import onnxruntime

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIRST_DEVICE = 0


def run_bound(
    session: Any, device: str, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[NDArray[np.float32]]:
    """The outputs of these names, in order, as `InferenceSession.run` gives them.

    device: cpu or cuda, where the session runs. Raises what ONNX Runtime raises.
    """
    import numpy as np

    ort = onnxruntime()
    binding = session.io_binding()
    for name, array in feeds.items():
        whole = np.ascontiguousarray(array)
        if whole.size == 0:  # nothing to place: a device has no memory of no bytes
            binding.bind_cpu_input(name, whole)
            continue
        value = ort.OrtValue.ortvalue_from_numpy(whole, device, FIRST_DEVICE)
        binding.bind_ortvalue_input(name, value)
    for name in names:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    found: list[NDArray[np.float32]] = binding.copy_outputs_to_cpu()
    return found
