"""From torch to an ONNX graph with free batch and length.

The tracing exporter, because it needs no package beyond torch and keeps all axes free for every
architecture here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stars_local.core.errors import RewardError
from stars_local.exporting.architectures import AxesOf
from stars_local.exporting.past import WithPast, attending_to_past, blank_past
from stars_local.reward.session import INPUTS, NEW, OUTPUT, PAST

_OPSET = 18
_FREE = {0: "batch", 1: "length"}
_AXES = {INPUTS[0]: _FREE, INPUTS[1]: _FREE, OUTPUT: {0: "batch"}}


def to_onnx(network: nn.Module, pad_id: int, path: Path) -> None:
    """Write `network(ids, mask)`; RewardError where torch cannot."""
    _trace(network, _example(pad_id), INPUTS, [OUTPUT], _AXES, path)


def to_onnx_with_past(network: AxesOf, pad_id: int, path: Path) -> None:
    """Write a decoder that also takes past keys and values, and gives those of the new tokens."""
    inner = network.network
    whole = WithPast(inner.backbone, inner.head, network.matrix).eval()
    try:
        past = blank_past(inner.backbone, 5)
    except AttributeError as error:
        raise RewardError(f"the shape of its keys and values is unknown: {error}") from error
    old, new = ([f"{name}.{i}" for i in range(len(past))] for name in (PAST, NEW))
    axes = _AXES | {name: {0: "past"} for name in old} | dict.fromkeys(new, _FREE)
    with attending_to_past(inner.backbone):
        _trace(whole, (*_example(pad_id), *past), [*INPUTS, *old], [OUTPUT, *new], axes, path)


def _example(pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of unequal lengths, so that no mask folds away."""
    ids = torch.full((2, 9), pad_id, dtype=torch.int64)
    ids[0] = torch.arange(9)
    ids[1, :5] = torch.arange(5)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return ids, mask


def _trace(
    network: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    path: Path,
) -> None:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                example,
                str(path),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes={name: dict(free) for name, free in axes.items()},
                opset_version=_OPSET,
                dynamo=False,
            )
    except Exception as error:  # whatever tracing foreign code makes it raise
        raise RewardError(
            f"torch cannot export this network: {' '.join(str(error).split())[:300]}"
        ) from error
