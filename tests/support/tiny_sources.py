"""Tiny random Hugging Face folders of every architecture that can be exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from stars_local.training.checkpoint import save_checkpoint
from tests.support.tiny_encoder import tiny_network, tiny_tokenizer
from tests.support.tiny_reward import SPECIAL, WORDS
from tests.support.tiny_reward import tiny_tokenizer as tiny_chat_tokenizer

_N_VOCABULARY = len(SPECIAL) + len(WORDS)
_DECODER = {"num_key_value_heads": 2}
_WITH_HEAD = {**_DECODER, "head_dim": 8}
_SMALL_WINDOW = {**_WITH_HEAD, "sliding_window": 8}
_DEBERTA = {
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_MODERN = {
    "local_attention": 16,
    "global_attn_every_n_layers": 2,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "BertForSequenceClassification": ("BertConfig", {}),
    "DebertaV2ForSequenceClassification": ("DebertaV2Config", _DEBERTA),
    "ModernBertForSequenceClassification": ("ModernBertConfig", _MODERN),
    "LlamaForSequenceClassification": ("LlamaConfig", _DECODER),
    "Qwen2ForSequenceClassification": ("Qwen2Config", _DECODER),
    "Qwen3ForSequenceClassification": ("Qwen3Config", _WITH_HEAD),
    "GemmaForSequenceClassification": ("GemmaConfig", _WITH_HEAD),
    "Gemma2ForSequenceClassification": ("Gemma2Config", _SMALL_WINDOW),
    "Gemma3TextForSequenceClassification": ("Gemma3TextConfig", _SMALL_WINDOW),
    "LlamaForTokenClassification": ("LlamaConfig", _DECODER),
    "Qwen2ForTokenClassification": ("Qwen2Config", _DECODER),
    "Qwen3ForTokenClassification": ("Qwen3Config", _WITH_HEAD),
    "GemmaForTokenClassification": ("GemmaConfig", _WITH_HEAD),
    "Gemma2ForTokenClassification": ("Gemma2Config", _SMALL_WINDOW),
}
ARCHITECTURES = tuple(_CONFIGS)


def tiny_model(architecture: str, num_labels: int = 1) -> torch.nn.Module:
    """Random weights, large enough that different texts get clearly different outputs."""
    config_name, special = _CONFIGS[architecture]
    config = getattr(transformers, config_name)(
        vocab_size=_N_VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
        num_labels=num_labels,
        initializer_range=0.2,
        **special,
    )
    torch.manual_seed(0)
    model: torch.nn.Module = getattr(transformers, architecture)(config)
    return model.eval()


def write_tiny_source(
    folder: Path, architecture: str, *, num_labels: int = 1, dtype: torch.dtype = torch.float32
) -> Path:
    """config.json, model.safetensors and tokenizer files, as `save_pretrained` leaves them."""
    folder.mkdir(parents=True)
    tiny_model(architecture, num_labels).to(dtype).save_pretrained(folder)
    tiny_chat_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}, "model_max_length": 10**30}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def write_tiny_checkpoint(folder: Path, axes: tuple[str, ...] = ("harmless", "helpful")) -> Path:
    """A checkpoint as `reward train` leaves it."""
    folder.mkdir(parents=True)
    tokenizer = tiny_tokenizer(WORDS)
    tokenizer.save(str(folder / "tokenizer.json"))
    network = tiny_network(axes, tokenizer.get_vocab_size(), seed=3)
    limits = {"max_tokens": 48, "max_prompt_tokens": 16}
    state = {
        "global_step": 1,
        "encoder": network.config.to_json(),
        "axes": list(axes),
        "sep_id": network.sep_id,
        "settings": {"limits": limits},
    }
    tensors = {f"best.{name}": tensor for name, tensor in network.state_dict().items()}
    save_checkpoint(folder, state, tensors)
    card = {"licences": ["MIT"], "ships": True}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder
