"""Checkpoints of a training run: safetensors for numbers, JSON for the rest, never pickle.

A folder holds `checkpoint.json` (which names the tensors' file), the tensors (weights, their
running average, the best average so far, the optimiser's moments) and `tokenizer.json`. The
JSON is replaced last and atomically, so a folder shows the older or the newer state, whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stars_local.core.errors import DataError, RewardError
from stars_local.core.files import write_atomically
from stars_local.training.network import EncoderConfig, RewardNetwork

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "stars-local-reward-checkpoint-1"


def save_checkpoint(folder: Path, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write tensors, then the JSON that names them, then drop the tensors before them."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    name = f"state-{state['global_step']:07d}.safetensors"
    contiguous = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    write_atomically(folder / name, save(contiguous))
    document = {"format": FORMAT, "tensors": name, **state}
    write_atomically(
        folder / "checkpoint.json", (json.dumps(document, indent=1) + "\n").encode("utf-8")
    )
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint; DataError where there is none or it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "checkpoint.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the checkpoint {path}: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise DataError(f"{path}: not a checkpoint of format {FORMAT}")
    tensors_path = folder / str(state["tensors"])
    try:
        return state, load_file(str(tensors_path))
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read the checkpoint's {tensors_path}: {error}") from error


def load_network(folder: Path) -> RewardNetwork:
    """The network of a checkpoint with its best weights, in evaluation mode."""
    state, tensors = load_checkpoint(folder)
    network = RewardNetwork(
        EncoderConfig(**state["encoder"]), tuple(state["axes"]), int(state["sep_id"])
    )
    best = {
        key.removeprefix("best."): tensor
        for key, tensor in tensors.items()
        if key.startswith("best.")
    }
    try:
        network.load_state_dict(best)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise RewardError(f"{folder}: the checkpoint does not fit its network: {first}") from error
    network.eval()
    return network
