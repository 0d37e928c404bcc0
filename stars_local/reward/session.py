"""An ONNX Runtime session: provider, threads, errors, and one run of the network.

ONNX Runtime prints to stderr when a provider cannot load and quietly takes another one. Here it
is silent, and what it took is compared with what was asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stars_local.core.errors import RewardError, UsageError
from stars_local.reward.binding import run_bound
from stars_local.reward.runtime import onnxruntime

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROVIDERS = ("auto", "cpu", "cuda", "coreml")
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "rewards"
# A decoder's keys and values by layer: inputs (past length, heads, width), shared by the batch,
# and outputs (batch, length, heads, width). Their names end in a dot and a number.
PAST, NEW = "past", "new"
_FULL_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
_REMEDIES = {
    "cuda": "install the CUDA 13 and cuDNN 9 libraries, or use --provider auto or cpu",
    "coreml": "it comes with onnxruntime on macOS only; use --provider auto or cpu",
}
_SILENT = 4  # ONNX Runtime's log level above errors

# Weights that are stored as int8 are made float32 at load up to this size. MiniLM-L6 (23 MB):
# 0.10 s and 84 MB against 0.07 s and 53 MB with weights kept int8, whose matrix product however
# also rounds the activations, by other kernels on other machines: scores would not carry over.
# Larger files keep int8 weights with float32 activations, at half the speed.
FOLD_MAX_BYTES = 256 << 20


class Session:
    """A loaded network. `provider` is what runs it: cpu, cuda or coreml."""

    def __init__(self, path: Path, provider: str, threads: int | None) -> None:
        if provider not in PROVIDERS:
            raise UsageError(f"--provider {provider!r}: expected one of {', '.join(PROVIDERS)}")
        self._path = path
        self.provider, self._session = _open(path, provider, threads)
        self._past_shapes = _past_shapes(path, self._session)
        _check_signature(path, self._session, len(self._past_shapes))
        self.n_outputs = _n_outputs(self._session)

    def run(self, ids: Any, mask: Any) -> NDArray[np.float32]:
        """Raw outputs, float32 of shape (batch, n_outputs), for int64 (batch, length) inputs."""
        return self._run([OUTPUT], self.no_past(), ids, mask)[0]

    @property
    def takes_past(self) -> bool:
        """Whether the network can go on from the keys and values of tokens that it has read."""
        return bool(self._past_shapes)

    def no_past(self) -> list[NDArray[np.float32]]:
        """Keys and values of no tokens, an array each of shape (0, heads, width)."""
        import numpy as np

        return [np.empty((0, *shape), dtype=np.float32) for shape in self._past_shapes]

    def run_on(
        self, past: Sequence[Any], ids: Any, mask: Any
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Raw outputs of rows that all go on from `past`, and the keys and values they make.

        past: as `no_past`, with as many rows as tokens; new ones are (batch, length, heads,
        width).
        """
        names = [OUTPUT, *(f"{NEW}.{i}" for i in range(len(self._past_shapes)))]
        outputs, new = self._run(names, past, ids, mask)
        return outputs, new

    def _run(
        self, names: Sequence[str], past: Sequence[Any], ids: Any, mask: Any
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        import numpy as np

        feeds = {INPUTS[0]: ids, INPUTS[1]: mask}
        feeds |= {f"{PAST}.{i}": array for i, array in enumerate(past)}
        try:
            if self.provider == "cuda":
                found, *new = run_bound(self._session, self.provider, names, feeds)
            else:
                found, *new = self._session.run(list(names), feeds)
        except Exception as error:  # its exceptions share no base but Exception
            raise RewardError(f"{self._path}: the network failed: {_one_line(error)}") from error
        outputs = np.asarray(found, dtype=np.float32)
        if outputs.ndim != 2 or outputs.shape[0] != ids.shape[0]:
            raise RewardError(
                f"{self._path}: the output has shape {outputs.shape} for a batch of "
                f"{ids.shape[0]}, expected (batch, axes)"
            )
        return outputs, new


def _open(path: Path, provider: str, threads: int | None) -> tuple[str, Any]:
    if provider != "auto":
        return provider, _create(path, provider, threads)
    # CoreML has given wrong scores in half precision: on macOS `auto` is the CPU
    if sys.platform != "darwin" and _is_built_in("cuda"):
        try:
            return "cuda", _create(path, "cuda", threads)
        except RewardError:
            pass
    return "cpu", _create(path, "cpu", threads)


def _is_built_in(provider: str) -> bool:
    return _FULL_NAMES[provider] in onnxruntime().get_available_providers()


def _create(path: Path, provider: str, threads: int | None) -> Any:
    ort = onnxruntime()
    if not _is_built_in(provider):
        raise RewardError(
            f"the installed ONNX Runtime has no provider {provider}: {_REMEDIES[provider]}"
        )
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    # A spinning thread would take the cores from the language model between two scores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if path.stat().st_size <= FOLD_MAX_BYTES:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    else:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    wanted: list[Any] = [_FULL_NAMES[provider]]
    if provider == "cuda":  # TF32 rounds to 10 bits: scores would differ in the third digit
        wanted = [(_FULL_NAMES["cuda"], {"use_tf32": "0"}), _FULL_NAMES["cpu"]]
    elif provider == "coreml":
        wanted.append(_FULL_NAMES["cpu"])
    ort.set_default_logger_severity(_SILENT)
    try:
        session = ort.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # its exceptions share no base but Exception
        raise RewardError(f"cannot load {path}: {_one_line(error)}") from error
    got = session.get_providers()
    if _FULL_NAMES[provider] not in got:
        raise RewardError(
            f"asked for the provider {provider}, ONNX Runtime took {got[0]}: {_REMEDIES[provider]}"
        )
    return session


def _past_shapes(path: Path, session: Any) -> list[tuple[int, int]]:
    """(heads, width) of each past input, none where the network takes no past."""
    found = {i.name: i for i in session.get_inputs() if i.name.startswith(f"{PAST}.")}
    shapes = []
    for i in range(len(found)):
        each = found.get(f"{PAST}.{i}")
        shape = [] if each is None or each.type != "tensor(float)" else each.shape[1:]
        if len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
            raise RewardError(
                f"{path}: the input {PAST}.{i} must be float32 of shape (past, heads, width); "
                "make the file with 'stars-local reward export'"
            )
        shapes.append((shape[0], shape[1]))
    return shapes


def _check_signature(path: Path, session: Any, n_past: int) -> None:
    """RewardError unless there are exactly the inputs and the output that an export has."""
    inputs = {each.name: each.type for each in session.get_inputs()}
    outputs = {each.name: each.type for each in session.get_outputs()}
    past = {f"{PAST}.{i}": "tensor(float)" for i in range(n_past)}
    new = {f"{NEW}.{i}": "tensor(float)" for i in range(n_past)}
    if inputs != dict.fromkeys(INPUTS, "tensor(int64)") | past:
        raise RewardError(
            f"{path}: the inputs are {_listed(inputs)}, expected int64 tensors "
            f"{' and '.join(INPUTS)}; make the file with 'stars-local reward export'"
        )
    if outputs.get(OUTPUT) not in {"tensor(float)", "tensor(float16)", "tensor(double)"}:
        raise RewardError(
            f"{path}: the outputs are {_listed(outputs)}, expected a float tensor {OUTPUT}; "
            "make the file with 'stars-local reward export'"
        )
    if not new.items() <= outputs.items():
        raise RewardError(
            f"{path}: the outputs are {_listed(outputs)}, expected {NEW}.0 to {NEW}.{n_past - 1} "
            "for as many past inputs; make the file with 'stars-local reward export'"
        )


def _n_outputs(session: Any) -> int | None:
    """Columns of the output, None where the graph does not say."""
    output = next(each for each in session.get_outputs() if each.name == OUTPUT)
    columns = output.shape[-1] if len(output.shape) == 2 else None
    return columns if isinstance(columns, int) else None


def _listed(tensors: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in list(tensors.items())[:6]) or "none"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
