"""Reward model folders of a few hundred weights, written without torch.

The network gives the mean over real tokens of a table's rows: right padding and neighbours
cannot change it, except in the variants that are there to be caught.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from stars_local.reward.golden import golden_json, golden_texts
from stars_local.reward.manifest import (
    Axis,
    Cut,
    Form,
    Kind,
    Manifest,
    Style,
    Template,
    write_manifest,
)
from stars_local.reward.onnx_model import OnnxRewardModel

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "<|im_start|>", "<|im_end|>")
WORDS = ("yes", "no", "sorry", "sure", "help", "kill", "human", "assistant", "user", ":", ".")
AXES = ("harmless", "helpful")
SEED = 5


def tiny_tokenizer(words: tuple[str, ...] = WORDS) -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def table(n_words: int = len(SPECIAL) + len(WORDS), n_axes: int = len(AXES)) -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(n_words, n_axes)).astype(np.float32)


def network(weights: np.ndarray, variant: str = "") -> onnx.ModelProto:
    """variant: "batch" adds the batch's mean length, "padding" counts padding, "nan" is NaN."""
    make = helper.make_node
    nodes = [
        make("Gather", ["table", "input_ids"], ["rows"]),
        make("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        make("Unsqueeze", ["real", "two"], ["wide"]),
        make("Mul", ["rows", "wide"], ["kept"]),
        make("ReduceSum", ["kept", "one"], ["total"], keepdims=0),
        make("ReduceSum", ["real", "one"], ["count"], keepdims=1),
        make("Div", ["total", "count"], ["mean"]),
    ]
    last = {
        "": make("Identity", ["mean"], ["rewards"]),
        "batch": make("Add", ["mean", "neighbours"], ["rewards"]),
        "padding": make("Add", ["mean", "width"], ["rewards"]),
        "nan": make("Log", ["negative"], ["rewards"]),
    }[variant]
    if variant == "batch":
        nodes.append(make("ReduceMean", ["count"], ["neighbours"], keepdims=1))
    elif variant == "padding":
        nodes += [
            make("Shape", ["input_ids"], ["shape"]),
            make("Cast", ["shape"], ["sizes"], to=TensorProto.FLOAT),
            make("Gather", ["sizes", "one"], ["width"]),
        ]
    elif variant == "nan":
        nodes += [make("Abs", ["mean"], ["size"]), make("Neg", ["size"], ["negative"])]
    graph = helper.make_graph(
        [*nodes, last],
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("rewards", TensorProto.FLOAT, ["batch", None])],
        [
            numpy_helper.from_array(weights, "table"),
            numpy_helper.from_array(np.array([1]), "one"),
            numpy_helper.from_array(np.array([2]), "two"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_tiny_reward(folder: Path, *, variant: str = "", **changes: Any) -> Path:
    """A folder that `OnnxRewardModel` opens; `changes` are fields of the manifest."""
    folder.mkdir(parents=True)
    onnx.save_model(network(table(), variant), str(folder / "model.onnx"))
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    manifest = replace(manifest_of(folder), **changes)
    write_manifest(folder, manifest)
    model = OnnxRewardModel(folder, provider="cpu", threads=1, trusted=True)
    rewards: list[dict[str, float]] = []
    for item in golden_texts():
        values = model.run_batch([model.encode(*item)])[0]
        names = [axis.name for axis in manifest.axes]
        rewards.append({name: float(x) for name, x in zip(names, values, strict=True)})
    (folder / "golden.json").write_bytes(golden_json(golden_texts(), rewards))
    return folder


def manifest_of(folder: Path) -> Manifest:
    """Pair form, axes of different mean and spread, the second with its sign turned."""
    return Manifest(
        schema=1,
        name="tiny",
        revision="1",
        kind=Kind.ENCODER,
        precision="fp32",
        model_file="model.onnx",
        sha256=sha256(folder / "model.onnx"),
        data_files={},
        tokenizer_file="tokenizer.json",
        tokenizer_sha256=sha256(folder / "tokenizer.json"),
        axes=(Axis("harmless", 0, 1, 0.25, 0.5), Axis("helpful", 1, -1, -1.0, 2.0)),
        template=Template(Style.HH, Form.PAIR, 2, 3, "", None, "", ""),
        max_tokens=24,
        max_prompt_tokens=8,
        cut=Cut.LEFT,
        pad_id=0,
        batch_invariant=True,
        golden_file="golden.json",
        reference="none",
        licence="CC0-1.0",
        training_card=None,
        accuracy=(),
    )
