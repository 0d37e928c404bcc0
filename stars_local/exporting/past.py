"""Decoders that read only what is new, on keys and values of what they have read before.

    attention(q, [past; new]) = [softmax([q Kp', q Kn'])] [Vp; Vn] = Pp Vp + Pn Vn

The past is shared by all rows of a batch, has no padding, and is never copied, repeated over
the heads of a group, or returned: the graph gives the keys and values of the new tokens only.
New rows are padded on the right, where causality hides the padding from every real token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_ATTENTION = "stars_local_past"


@dataclass
class _Layers:
    """Keys and values of one run: what came in, and what the layers made, in their order."""

    past: Sequence[Tensor]
    made: list[Tensor] = field(default_factory=list)


class WithPast(nn.Module):  # type: ignore[misc]
    """``forward(ids, mask, *past) -> (rewards, *new)``.

    ids, mask: (batch, length). past and new: keys then values of each layer in turn, of shape
    (past length, heads, width) and (batch, length, heads, width). backbone: a transformers
    decoder; matrix: (outputs of the head, axes).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, matrix: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("matrix", matrix)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor) -> Any:
        layers = _Layers(past)
        batch, length = input_ids.shape
        positions = past[0].shape[0] + torch.arange(length).unsqueeze(0)
        # A mask of four dimensions is taken as it is; `_attend` makes its own
        unread = torch.zeros((batch, 1, length, length))
        hidden = self.backbone(
            input_ids=input_ids,
            attention_mask=unread,
            position_ids=positions,
            use_cache=False,
            stars_layers=layers,
        ).last_hidden_state
        last = (attention_mask.sum(1) - 1).clamp(min=0)
        logits = self.head(hidden[torch.arange(batch), last]).float()
        return (logits @ self.matrix, *layers.made)


def blank_past(backbone: nn.Module, n_tokens: int) -> tuple[Tensor, ...]:
    """A past of zeros, of the shapes that `WithPast` takes."""
    config: Any = backbone.config
    width = getattr(config, "head_dim", None)
    if width is None:
        width = config.hidden_size // config.num_attention_heads
    shape = (n_tokens, config.num_key_value_heads, width)
    return tuple(torch.zeros(shape) for _ in range(2 * config.num_hidden_layers))


@contextlib.contextmanager
def attending_to_past(backbone: nn.Module) -> Iterator[None]:
    """While it lasts, the layers attend as `WithPast` needs it."""
    from transformers import AttentionInterface

    AttentionInterface.register(_ATTENTION, _attend)
    config: Any = backbone.config
    before = config._attn_implementation
    config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    stars_layers: _Layers,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of new tokens over the shared past and themselves.

    query: (batch, heads, length, width); key, value: (batch, groups, length, width).
    """
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    at = len(stars_layers.made)
    past_key, past_value = (each.transpose(0, 1) for each in stars_layers.past[at : at + 2])
    stars_layers.made += [key.transpose(1, 2), value.transpose(1, 2)]
    past = past_key.shape[1]
    query = (query * scaling).reshape(batch, groups, -1, width)
    mine, theirs = torch.arange(length).unsqueeze(1), torch.arange(length).unsqueeze(0)
    hidden = theirs > mine
    old, new = query @ past_key.transpose(-1, -2), query @ key.transpose(-1, -2)
    if softcap is not None:
        old, new = (torch.tanh(each / softcap) * softcap for each in (old, new))
    if sliding_window is not None:
        hidden = hidden | (mine - theirs >= sliding_window)
        too_old = past + mine - torch.arange(past).unsqueeze(0) >= sliding_window
        old = _hide(old.reshape(batch, heads, length, past), too_old)
        old = old.reshape(batch, groups, heads // groups * length, past)
    # Of the past nothing else is hidden: masking all of it costs as much as a projection
    new = _hide(new.reshape(batch, heads, length, -1), hidden).reshape(batch, groups, -1, length)
    scores = torch.cat([old, new], dim=-1)
    shares = torch.softmax(scores, dim=-1)
    found = shares[..., :past] @ past_value + shares[..., past:] @ value
    return found.reshape(batch, heads, length, width).transpose(1, 2), None


def _hide(scores: Tensor, hidden: Tensor) -> Tensor:
    return scores.masked_fill(hidden, torch.finfo(torch.float32).min)
