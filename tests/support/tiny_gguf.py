"""Tiny GGUF files with random weights, one an architecture family, that decode in microseconds.

The vocabulary is byte-level BPE: tokens 0 to 255 are the bytes in GPT-2's order (so a token may
end inside a UTF-8 character), then a few merges, then the special tokens of ChatML. Weights are
F32 and drawn from `seed`, wide enough that next-token distributions are neither flat nor greedy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

ARCHITECTURES = ("llama", "gemma3", "mamba", "jamba")
SLIDING_WINDOW = 32

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

MERGES = ("h e", "l l", "Ġ t", "i n", "he ll", "hell o", "Ġt he")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

_N_EMBD = 32
_N_HEAD = 4
_N_HEAD_KV = 2
_N_FF = 48
_D_INNER = 2 * _N_EMBD  # llama.cpp only knows Mamba 1 with an expansion factor of 2
_D_STATE = 4
_D_CONV = 4
_DT_RANK = 4
_N_LAYER = {"llama": 2, "gemma3": 6, "mamba": 2, "jamba": 4}
_JAMBA_ATTENTION = (1, 3)  # the other layers are recurrent


def vocabulary() -> list[str]:
    """The tokens by id, bytes written as GPT-2 writes them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    n_other = 256 - len(printable)
    symbols = [*map(chr, printable), *(chr(256 + index) for index in range(n_other))]
    return [*symbols, *("".join(merge.split(" ")) for merge in MERGES), *SPECIAL]


def write_tiny(
    path: Path,
    architecture: str,
    *,
    n_ctx: int = 512,
    seed: int = 0,
    chat_template: str | None = CHATML,
    turn_token_type: gguf.TokenType = gguf.TokenType.CONTROL,
    part: tuple[int, int] = (0, 1),
    licence: str | None = None,
) -> Path:
    """Write a loadable model of one of `ARCHITECTURES` to `path` and return the path.

    n_ctx is the trained context. `chat_template` None leaves the template out, as base models
    do. `turn_token_type` is how `<|im_start|>` is marked: some files call it user-defined.
    part: which of how many files of a split model this one is, with its share of the tensors.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"tiny-{architecture}")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if licence is not None:
        writer.add_license(licence)
    _write_hyperparameters(writer, architecture, n_ctx)
    _write_vocabulary(writer, chat_template, turn_token_type)
    tensors = list(_tensors(architecture, np.random.default_rng(seed)))
    number, count = part
    if count > 1:
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(tensors))
    for name, tensor in tensors[number::count]:
        writer.add_tensor(name, tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_hyperparameters(writer: Any, architecture: str, n_ctx: int) -> None:
    n_layer = _N_LAYER[architecture]
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(_N_EMBD)
    writer.add_block_count(n_layer)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary()))
    writer.add_feed_forward_length(0 if architecture == "mamba" else _N_FF)
    writer.add_head_count(0 if architecture == "mamba" else _N_HEAD)
    if architecture == "jamba":
        writer.add_head_count_kv(
            [_N_HEAD_KV if layer in _JAMBA_ATTENTION else 0 for layer in range(n_layer)]
        )
    elif architecture != "mamba":
        writer.add_head_count_kv(_N_HEAD_KV)
    if architecture in ("llama", "gemma3"):
        writer.add_rope_dimension_count(_N_EMBD // _N_HEAD)
        writer.add_rope_freq_base(10000.0)
    if architecture == "gemma3":
        writer.add_key_length(_N_EMBD // _N_HEAD)
        writer.add_value_length(_N_EMBD // _N_HEAD)
        writer.add_sliding_window(SLIDING_WINDOW)
    if architecture in ("mamba", "jamba"):
        writer.add_ssm_conv_kernel(_D_CONV)
        writer.add_ssm_inner_size(_D_INNER)
        writer.add_ssm_state_size(_D_STATE)
        writer.add_ssm_time_step_rank(_DT_RANK)


def _write_vocabulary(
    writer: Any, chat_template: str | None, turn_token_type: gguf.TokenType
) -> None:
    tokens = vocabulary()
    special = [gguf.TokenType.CONTROL, turn_token_type, gguf.TokenType.CONTROL]
    normal = [gguf.TokenType.NORMAL] * (len(tokens) - len(special))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(normal + special)
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _tensors(architecture: str, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    n_vocab = len(vocabulary())
    # The embedding is the output matrix too; final activations have unit RMS, so logits have a
    # standard deviation of about 1.6, gemma's embedding scaling notwithstanding.
    yield "token_embd.weight", _random(rng, n_vocab, _N_EMBD, spread=1.6 / _N_EMBD**0.5)
    yield "output_norm.weight", np.ones(_N_EMBD)
    for layer in range(_N_LAYER[architecture]):
        recurrent = architecture == "mamba" or (
            architecture == "jamba" and layer not in _JAMBA_ATTENTION
        )
        parts = [_mamba_mixer(architecture, rng)] if recurrent else [_attention(architecture, rng)]
        if architecture != "mamba":
            parts.append(_feed_forward(rng))
        if architecture == "gemma3":
            parts.append({"post_attention_norm.weight": np.ones(_N_EMBD)})
            parts.append({"post_ffw_norm.weight": np.ones(_N_EMBD)})
        for part in parts:
            for name, tensor in part.items():
                yield f"blk.{layer}.{name}", tensor


def _attention(architecture: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    n_head_embd = _N_EMBD // _N_HEAD
    n_kv = n_head_embd * _N_HEAD_KV
    tensors = {
        "attn_norm.weight": np.ones(_N_EMBD),
        "attn_q.weight": _random(rng, _N_EMBD, _N_EMBD),
        "attn_k.weight": _random(rng, n_kv, _N_EMBD),
        "attn_v.weight": _random(rng, n_kv, _N_EMBD),
        "attn_output.weight": _random(rng, _N_EMBD, _N_EMBD),
    }
    if architecture == "gemma3":
        tensors["attn_q_norm.weight"] = np.ones(n_head_embd)
        tensors["attn_k_norm.weight"] = np.ones(n_head_embd)
    return tensors


def _feed_forward(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "ffn_norm.weight": np.ones(_N_EMBD),
        "ffn_gate.weight": _random(rng, _N_FF, _N_EMBD),
        "ffn_up.weight": _random(rng, _N_FF, _N_EMBD),
        "ffn_down.weight": _random(rng, _N_EMBD, _N_FF),
    }


def _mamba_mixer(architecture: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    decay = -np.tile(np.arange(1, _D_STATE + 1), (_D_INNER, 1))  # as Mamba initialises A
    tensors = {
        "attn_norm.weight": np.ones(_N_EMBD),
        "ssm_in.weight": _random(rng, 2 * _D_INNER, _N_EMBD),
        "ssm_conv1d.weight": _random(rng, _D_INNER, _D_CONV),
        "ssm_conv1d.bias": _random(rng, _D_INNER, spread=0.1),
        "ssm_x.weight": _random(rng, _DT_RANK + 2 * _D_STATE, _D_INNER),
        "ssm_dt.weight": _random(rng, _D_INNER, _DT_RANK),
        "ssm_dt.bias": _random(rng, _D_INNER, spread=0.5),
        "ssm_a": decay.astype(np.float64),
        "ssm_d": np.ones(_D_INNER),
        "ssm_out.weight": _random(rng, _N_EMBD, _D_INNER),
    }
    if architecture == "jamba":
        tensors["ssm_dt_norm.weight"] = np.ones(_DT_RANK)
        tensors["ssm_b_norm.weight"] = np.ones(_D_STATE)
        tensors["ssm_c_norm.weight"] = np.ones(_D_STATE)
    return tensors


def _random(rng: np.random.Generator, *shape: int, spread: float | None = None) -> np.ndarray:
    """Normal numbers; without `spread`, such that unit inputs give unit outputs."""
    width = shape[-1] ** -0.5 if spread is None else spread
    return rng.normal(0.0, width, size=shape)


def write_tiny_split(folder: Path, architecture: str, count: int = 2) -> list[Path]:
    """A model in `count` files, named as llama.cpp's own splitter names them."""
    return [
        write_tiny(
            folder / f"tiny-{number + 1:05d}-of-{count:05d}.gguf",
            architecture,
            part=(number, count),
        )
        for number in range(count)
    ]
