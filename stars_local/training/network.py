"""The reward network: a BERT encoder, two poolings and one linear output an axis.

    ids, mask -> encoder -> [mean over all tokens ; mean over the response] -> linear

Own code rather than `transformers`: a page of plain tensor operations traces to ONNX
without surprises, and its parameter names are those of the encoder's safetensors file. Token
types are derived from the first ``[SEP]`` inside, so callers pass only ids and mask.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stars_local.core.errors import RewardError


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes of a BERT encoder, named as in its ``config.json``."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    dropout: float = 0.1

    @classmethod
    def read(cls, path: Path) -> EncoderConfig:
        """Read a Hugging Face ``config.json``; RewardError names what is wrong with it."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RewardError(f"cannot read the encoder's {path}: {error}") from error
        if raw.get("model_type") != "bert" or raw.get("hidden_act") != "gelu":
            raise RewardError(
                f"{path}: model_type {raw.get('model_type')!r} with activation "
                f"{raw.get('hidden_act')!r}; training needs a 'bert' encoder with 'gelu'"
            )
        names = [field.name for field in fields(cls) if field.name != "dropout"]
        missing = [name for name in names if name not in raw]
        if missing:
            raise RewardError(f"{path}: no field {missing[0]!r} in the encoder's config")
        return cls(**{name: raw[name] for name in names})

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


class _Layer(nn.Module):  # type: ignore[misc]
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.n_heads = config.num_attention_heads
        self.dropout = config.dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(width, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        batch, length, width = hidden.shape

        def heads(x: Tensor) -> Tensor:
            return x.view(batch, length, self.n_heads, width // self.n_heads).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            heads(self.query(hidden)),
            heads(self.key(hidden)),
            heads(self.value(hidden)),
            attn_mask=bias.to(hidden.dtype),
        )
        mixed = self.attention_output(mixed.transpose(1, 2).reshape(batch, length, width))
        hidden = self.attention_norm(hidden + self._drop(mixed))
        inner = self.output(functional.gelu(self.intermediate(hidden)))
        normed: Tensor = self.output_norm(hidden + self._drop(inner))
        return normed

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class RewardNetwork(nn.Module):  # type: ignore[misc]
    """``forward(input_ids, attention_mask) -> rewards``.

    Both inputs are integer tensors of shape (batch, length), right-padded, mask 1 on real
    tokens; the output is float32 of shape (batch, n_axes), unbounded.
    """

    def __init__(self, config: EncoderConfig, axes: tuple[str, ...], sep_id: int) -> None:
        super().__init__()
        if not axes:
            raise RewardError("a reward network needs at least one axis")
        self.config = config
        self.axes = axes
        self.sep_id = sep_id
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.embedding_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.head = nn.Linear(2 * width, len(axes))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        is_sep = (input_ids == self.sep_id).to(torch.int64)
        in_response = ((is_sep.cumsum(1) - is_sep) > 0).to(torch.int64)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = (
            self.word_embeddings(input_ids)
            + self.position_embeddings(positions)
            + self.token_type_embeddings(in_response)
        )
        hidden = functional.dropout(self.embedding_norm(hidden), self.config.dropout, self.training)
        mask = attention_mask.to(torch.float32)
        # A large negative number, not -inf: it stays finite in half precision exports.
        bias = (1.0 - mask)[:, None, None, :] * -1e4
        for layer in self.layers:
            hidden = layer(hidden, bias)
        hidden = hidden.to(torch.float32)
        response_mask = mask * in_response.to(torch.float32)
        pooled = torch.cat([_mean(hidden, mask), _mean(hidden, response_mask)], dim=1)
        pooled = functional.dropout(pooled, self.config.dropout, self.training)
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            rewards: Tensor = self.head(pooled)
        return rewards


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    total = (hidden * mask[:, :, None]).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1.0)


_LAYER_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention_output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "intermediate",
    "output.dense": "output",
    "output.LayerNorm": "output_norm",
}


def encoder_names(n_layers: int) -> dict[str, str]:
    """Our parameter names by those of a Hugging Face ``BertModel`` file."""
    names = {
        f"embeddings.{kind}_embeddings.weight": f"{kind}_embeddings.weight"
        for kind in ("word", "position", "token_type")
    }
    modules = {"embeddings.LayerNorm": "embedding_norm"} | {
        f"encoder.layer.{i}.{theirs}": f"layers.{i}.{ours}"
        for i in range(n_layers)
        for theirs, ours in _LAYER_NAMES.items()
    }
    for theirs, ours in modules.items():
        for kind in ("weight", "bias"):
            names[f"{theirs}.{kind}"] = f"{ours}.{kind}"
    return names


def load_encoder(network: RewardNetwork, folder: Path) -> None:
    """Copy a pretrained encoder's ``model.safetensors`` into the network; the head stays.

    RewardError names the first tensor that is missing or has another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise RewardError(f"cannot read the encoder's weights {path}: {error}") from error
    state = network.state_dict()
    for theirs, ours in encoder_names(network.config.num_hidden_layers).items():
        tensor = tensors.get(theirs, tensors.get(f"bert.{theirs}"))
        if tensor is None:
            raise RewardError(f"{path}: no tensor {theirs!r}; is it a BERT encoder?")
        if tensor.shape != state[ours].shape:
            raise RewardError(
                f"{path}: {theirs!r} has shape {tuple(tensor.shape)}, "
                f"its config.json says {tuple(state[ours].shape)}"
            )
        state[ours].copy_(tensor)


def pad(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask), int64 of shape (n, longest), padded on the right."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.zeros((len(sequences), longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
        mask[i, : len(sequence)] = 1
    return ids.to(device), mask.to(device)


def initialise_head(network: RewardNetwork, seed: int) -> None:
    """Small random weights and a zero bias, from `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network.head.weight.normal_(0.0, 0.02, generator=generator)
        network.head.bias.zero_()
