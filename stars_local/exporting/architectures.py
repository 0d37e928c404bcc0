"""What can be exported: our checkpoints, and Hugging Face folders of known architectures.

Each becomes a `Source`: a module ``forward(input_ids, attention_mask) -> (batch, n_axes)`` in
float32 with right padding, and what its folder says about texts.

| kind | architectures | the reward is read |
|---|---|---|
| encoder | BERT, DeBERTa-v2/v3, ModernBERT | where the head reads it |
| decoder | Llama, Qwen2, Qwen3, Gemma 1 to 3 | at the last real token |
| process | token classification heads of these decoders | at the last real token, the step's end |

Only safetensors are read, and only architectures whose code is in `transformers` itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stars_local.core.errors import RewardError
from stars_local.exporting.source_folder import (
    chat_template,
    named_id,
    read_json,
    token_id,
    token_limit,
    token_text,
    tokenizer_bytes,
)
from stars_local.reward.manifest import Form, Kind, Style

_ENCODERS = ("Bert", "DebertaV2", "ModernBert")
_DECODERS = ("Llama", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3Text")
_PROCESS = ("Llama", "Qwen2", "Qwen3", "Gemma", "Gemma2")
ARCHITECTURES: dict[str, Kind] = {
    **{f"{name}ForSequenceClassification": Kind.ENCODER for name in _ENCODERS},
    **{f"{name}ForSequenceClassification": Kind.DECODER for name in _DECODERS},
    **{f"{name}ForTokenClassification": Kind.PROCESS for name in _PROCESS},
}


@dataclass(frozen=True)
class Source:
    """A reward network and what its folder says; the export fills in the rest.

    axes: (name, columns that count for it, columns that count against it) of the module's own
    output. tokenizer: the bytes of `tokenizer.json`. chat_template: Jinja, if there is one.
    """

    network: nn.Module
    kind: Kind
    axes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    style: Style
    form: Form
    tokenizer: bytes
    cls_id: int | None
    sep_id: int | None
    pad_id: int
    bos: str
    eos: str
    max_tokens: int
    max_prompt_tokens: int | None
    chat_template: str | None = None
    card: bytes | None = None
    licence: str | None = None


class _Encoder(nn.Module):  # type: ignore[misc]
    """Token types, where there are any, change behind the first separator inside the text."""

    def __init__(self, model: nn.Module, sep_id: int | None) -> None:
        super().__init__()
        self.model = model
        self.sep_id = sep_id if getattr(model.config, "type_vocab_size", 0) > 1 else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        extra = {}
        if self.sep_id is not None:
            is_sep = (input_ids == self.sep_id).to(torch.int64)
            extra["token_type_ids"] = ((is_sep.cumsum(1) - is_sep) > 0).to(torch.int64)
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **extra)
        logits: Tensor = found.logits
        return logits.float()


class LastToken(nn.Module):  # type: ignore[misc]
    """A decoder with a linear head, read at the last token that the mask calls real."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = model.base_model
        self.head = model.score

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        last = (attention_mask.sum(1) - 1).clamp(min=0)
        logits: Tensor = self.head(hidden[torch.arange(hidden.shape[0]), last])
        return logits.float()


class AxesOf(nn.Module):  # type: ignore[misc]
    """Columns of the wrapped output for each axis: the sum of some, less the sum of others."""

    def __init__(
        self,
        network: nn.Module,
        n_outputs: int,
        axes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
    ) -> None:
        super().__init__()
        self.network = network
        matrix = torch.zeros((n_outputs, len(axes)))
        for place, (_, plus, minus) in enumerate(axes):
            matrix[list(plus), place] = 1.0
            matrix[list(minus), place] = -1.0
        self.register_buffer("matrix", matrix)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        rewards: Tensor = self.network(input_ids, attention_mask) @ self.matrix
        return rewards


def load_source(folder: Path) -> Source:
    """Read a checkpoint of ours or a Hugging Face folder; RewardError says what is wrong."""
    if (folder / "checkpoint.json").is_file():
        return _checkpoint(folder)
    if not (folder / "config.json").is_file():
        raise RewardError(
            f"{folder}: neither checkpoint.json (of 'reward train') nor config.json (Hugging "
            "Face) in it"
        )
    return _hugging_face(folder)


def _checkpoint(folder: Path) -> Source:
    from stars_local.training.checkpoint import load_checkpoint, load_network

    state, _ = load_checkpoint(folder)
    network = load_network(folder)
    limits = state["settings"]["limits"]
    card = folder / "card.json"
    tokenizer = tokenizer_bytes(folder)
    licences = json.loads(card.read_text("utf-8"))["licences"] if card.is_file() else []
    return Source(
        network=network,
        kind=Kind.ENCODER,
        axes=tuple((name, (place,), ()) for place, name in enumerate(network.axes)),
        style=Style.HH,
        form=Form.PAIR,
        tokenizer=tokenizer,
        cls_id=token_id(tokenizer, "[CLS]"),
        sep_id=network.sep_id,
        pad_id=0,
        bos="",
        eos="",
        max_tokens=int(limits["max_tokens"]),
        max_prompt_tokens=int(limits["max_prompt_tokens"]),
        card=card.read_bytes() if card.is_file() else None,
        licence=" AND ".join(licences) or None,
    )


def _hugging_face(folder: Path) -> Source:
    config = read_json(folder / "config.json")
    found = config.get("architectures") or ["none"]
    kind = ARCHITECTURES.get(found[0])
    if kind is None:
        raise RewardError(
            f"{folder}: the architecture {found[0]} cannot be exported; known are "
            f"{', '.join(ARCHITECTURES)}"
        )
    model = _load_model(folder, found[0])
    tokenizer = tokenizer_bytes(folder)
    settings = read_json(folder / "tokenizer_config.json", optional=True)
    template = chat_template(folder, settings)
    encoder = kind is Kind.ENCODER
    cls_id = named_id(tokenizer, settings, "cls_token", "[CLS]") if encoder else None
    sep_id = named_id(tokenizer, settings, "sep_token", "[SEP]") if encoder else None
    if kind is not Kind.ENCODER and settings.get("add_bos_token") is True and template is None:
        cls_id = named_id(tokenizer, settings, "bos_token", "<s>")
    pair = encoder and cls_id is not None and sep_id is not None
    network = _Encoder(model, sep_id if pair else None) if encoder else LastToken(model)
    pad_id = getattr(model.config, "pad_token_id", None)
    limit = token_limit(model.config, settings)
    style = Style.PLAIN if encoder else Style.HH if template is None else Style.TOKENIZER
    return Source(
        network=network.eval(),
        kind=kind,
        axes=_default_axes(model.config, kind),
        style=style,
        form=Form.PAIR if pair else Form.SINGLE,
        tokenizer=tokenizer,
        cls_id=cls_id,
        sep_id=sep_id,
        pad_id=0 if pad_id is None else int(pad_id),
        bos=token_text(settings.get("bos_token")),
        eos=token_text(settings.get("eos_token")),
        max_tokens=limit,
        max_prompt_tokens=limit // 2 if pair else None,
        chat_template=template,
    )


def _load_model(folder: Path, architecture: str) -> nn.Module:
    """The model in float32; refuses pickled weights, and heads that are not in the file."""
    import transformers

    if not list(folder.glob("*.safetensors")):
        pickled = [
            each.name for pattern in ("*.bin", "*.pt", "*.pth") for each in folder.glob(pattern)
        ]
        what = f"only {pickled[0]}, a pickle that could run code" if pickled else "no weights"
        raise RewardError(f"{folder}: {what}; convert the weights to model.safetensors first")
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, report = getattr(transformers, architecture).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:  # whatever a damaged folder makes it raise
        raise RewardError(
            f"cannot load {folder} as {architecture}: {' '.join(str(error).split())[:300]}"
        ) from error
    finally:
        transformers.logging.set_verbosity(before)
    missing = sorted(report["missing_keys"])
    if missing:
        raise RewardError(
            f"{folder}: the weights lack {missing[0]}; a head that is not trained gives no rewards"
        )
    loaded: nn.Module = model.float().eval()
    return loaded


def _default_axes(
    config: Any, kind: Kind
) -> tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]:
    """One output is the reward, two are (bad, good), more are an axis each, by their labels."""
    n = int(config.num_labels)
    if n == 1:
        return (("reward", (0,), ()),)
    if n == 2:
        return (("reward", (1,), (0,)),)
    labels = [str(config.id2label[i]) for i in range(n)]
    names = [
        "".join(c if c.isalnum() or c in "_-" else "_" for c in text.lower()) for text in labels
    ]
    return tuple((name, (i,), ()) for i, name in enumerate(names))
