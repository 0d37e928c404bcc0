"""A random BERT encoder of a few thousand weights, as a folder that training reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from stars_local.training.network import EncoderConfig, RewardNetwork, encoder_names

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SEP_ID = SPECIAL_TOKENS.index("[SEP]")


def tiny_config(vocab_size: int) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
    )


def tiny_tokenizer(words: Sequence[str]) -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def tiny_network(axes: tuple[str, ...], vocab_size: int = 20, seed: int = 0) -> RewardNetwork:
    """All weights drawn from `seed`, wide enough that texts' rewards differ clearly."""
    network = RewardNetwork(tiny_config(vocab_size), axes, SEP_ID)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim > 1:
                tensor.normal_(0.0, 0.3, generator=generator)
    return network.eval()


def write_tiny_encoder(folder: Path, words: Sequence[str], seed: int = 0) -> Path:
    """config.json, model.safetensors and tokenizer.json, named as Hugging Face names them."""
    folder.mkdir(parents=True)
    tokenizer = tiny_tokenizer(words)
    tokenizer.save(str(folder / "tokenizer.json"))
    network = tiny_network(("any",), tokenizer.get_vocab_size(), seed)
    config = network.config.to_json() | {"model_type": "bert", "hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    state = network.state_dict()
    names = encoder_names(network.config.num_hidden_layers)
    save_file(
        {theirs: state[ours].contiguous() for theirs, ours in names.items()},
        str(folder / "model.safetensors"),
    )
    return folder
