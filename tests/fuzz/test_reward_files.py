"""Files of reward models: what parses them is native code, so a trial process takes the blows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.records import Message, Prompt
from stars_local.reward.external_data import external_files
from stars_local.reward.golden import read_golden
from stars_local.reward.manifest import read_manifest, to_json
from stars_local.reward.manifest import write_manifest as write_reward_manifest
from stars_local.reward.onnx_model import OnnxRewardModel
from stars_local.reward.probe import probe
from stars_local.reward.templates import TextEncoder
from tests.fuzz.contract import cases, refused_cleanly
from tests.fuzz.mutations import every_odd_value, json_or_bytes, spoilt_bytes
from tests.support.tiny_reward import manifest_of as tiny_manifest
from tests.support.tiny_reward import sha256, write_tiny_reward

PROMPT = Prompt("p", (Message("user", "Hi, who are you?"),))
GOLDEN = {"schema": 1, "items": [{"prompt": "a", "response": "b", "rewards": {"harmless": 0.5}}]}


@pytest.fixture(scope="module", name="reward")
def _reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_reward(tmp_path_factory.mktemp("reward") / "tiny")


@pytest.fixture(scope="module", name="manifest")
def _manifest(reward: Path) -> object:
    return to_json(read_manifest(reward))


@pytest.fixture(scope="module", name="spoilt")
def _spoilt(reward: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the reward model's folder, whose files are spoilt one by one."""
    return Path(shutil.copytree(reward, tmp_path_factory.mktemp("spoilt") / "tiny"))


@pytest.fixture(scope="module", name="apart_bytes")
def _apart_bytes(reward: Path) -> bytes:
    network = reading_from(onnx.load(reward / "model.onnx"), "weights.bin")
    return bytes(network.SerializeToString())


@cases()
@given(st.data())
def test_reward_manifests(spoilt: Path, manifest: object, data: st.DataObject) -> None:
    (spoilt / "reward.json").write_bytes(data.draw(json_or_bytes(manifest)))

    def read() -> None:
        found = read_manifest(spoilt)
        assert found.identity
        for name in (found.model_file, found.tokenizer_file, found.golden_file):
            assert (spoilt / name).resolve().parent == spoilt.resolve(), name

    refused_cleanly(read)


def test_every_odd_value_in_a_reward_manifest(spoilt: Path, manifest: dict[str, object]) -> None:
    path = spoilt / "reward.json"
    for data in every_odd_value(manifest):
        path.write_bytes(data)
        refused_cleanly(lambda: read_manifest(spoilt).identity.encode())


NUMBERS = ("-1", "0", "1", "3", "1048577", "2147483648", "4294967295", "9223372036854775808",
           "1" + "0" * 30, "1" + "0" * 400, "0.5", "1e-320", "1e308", "-1e308", "NaN")  # fmt: skip
COUNTED = ("max_tokens", "max_prompt_tokens", "pad_id")


@pytest.mark.parametrize("number", NUMBERS, ids=lambda text: text[:20])
@pytest.mark.parametrize(
    "place",
    [*COUNTED, "template.cls_id", "template.sep_id"]
    + [f"axes.0.{name}" for name in ("output", "sign", "mean", "spread")],
)
def test_a_reward_model_with_an_odd_number_scores_or_is_refused(
    reward: Path, spoilt: Path, manifest: dict[str, object], place: str, number: str
) -> None:
    tree = json.loads(json.dumps(manifest))
    *above, last = place.split(".")
    node = tree
    for step in above:
        node = node[int(step) if step.isdigit() else step]
    node[last] = "@@"
    (spoilt / "reward.json").write_text(json.dumps(tree).replace('"@@"', number))
    for name in ("model.onnx", "tokenizer.json", "golden.json"):
        shutil.copyfile(reward / name, spoilt / name)

    def read() -> None:
        model = OnnxRewardModel(spoilt, provider="cpu", threads=1, trusted=True)
        model.score([(PROMPT, "I am nobody."), (PROMPT, "yes " * 40)])

    message = refused_cleanly(read)
    if place in COUNTED and float(number) >= 2**31:
        assert message is not None and place in message


@cases()
@given(data=json_or_bytes(GOLDEN))
def test_golden_scores(spoilt: Path, data: bytes) -> None:
    path = spoilt / "golden.json"
    path.write_bytes(data)
    refused_cleanly(lambda: read_golden(path))


@cases()
@given(st.data())
def test_tokenizers(reward: Path, spoilt: Path, data: st.DataObject) -> None:
    good = json.loads((reward / "tokenizer.json").read_text())
    (spoilt / "tokenizer.json").write_bytes(data.draw(json_or_bytes(good)))
    described = replace(tiny_manifest(reward), sha256="0" * 64)

    def read() -> None:
        encoder = TextEncoder(spoilt, described)
        encoder.encode(PROMPT, "I am nobody. 三十 🎸 \x00 [SEP]")

    refused_cleanly(read)


def replacing(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def normalizing(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"normalizer": {"type": "Sequence", "normalizers": list(steps)}}


TWICE = replacing({"String": "z"}, "zz")
TO_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
HOSTILE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "a pattern that backtracks": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(x+x+)+y"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "a normalizer that prepends a lot": {
        "normalizer": {"type": "Prepend", "prepend": "x" * 1_000_000}
    },
    "letters that are doubled 34 times": normalizing(*[TWICE] * 34),
    "the same, of no named type": normalizing(
        *[{"pattern": {"String": "z"}, "content": "zz"}] * 34
    ),
    "the same by a pattern": normalizing(*[replacing({"Regex": "z|^"}, "zz")] * 34),
    "a text between all letters": normalizing(*[replacing({"String": ""}, "z" * 10)] * 10),
    "Unicode that is taken apart and doubled": normalizing(
        *[{"type": "NFKD"}, replacing({"String": "DZ\u030c"}, "\u01c4\u01c4")] * 34
    ),
    "bytes written as letters again and again": normalizing(*[{"type": "ByteLevel"}] * 34),
    "the same before splitting": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [TO_BYTES] * 34}
    },
    "a thousand steps": normalizing(*[{"type": "Lowercase"}] * 1000),
}


@pytest.mark.parametrize("name", HOSTILE_TOKENIZERS)
def test_hostile_tokenizers(reward: Path, spoilt: Path, name: str) -> None:
    """In this process, which would die of the memory that some of them ask for."""
    good = json.loads((reward / "tokenizer.json").read_text())
    path = spoilt / "tokenizer.json"
    path.write_text(json.dumps({**good, **HOSTILE_TOKENIZERS[name]}))

    def read() -> None:
        TextEncoder(spoilt, tiny_manifest(reward)).encode(PROMPT, "x" * 30 + "z\u01c4é")

    assert refused_cleanly(read) is not None


@cases(share=0.1)  # a process each; `make fuzz` says how many that is
@given(st.data())
def test_networks(reward: Path, spoilt: Path, data: st.DataObject) -> None:
    good = (reward / "model.onnx").read_bytes()
    path = spoilt / "model.onnx"
    path.write_bytes(data.draw(spoilt_bytes(good)))
    tokenizer = reward / "tokenizer.json"
    refused_cleanly(lambda: probe(path, tokenizer, [path.read_bytes().hex()]), may_start=True)


def test_a_network_that_asks_for_all_memory_is_refused(reward: Path, spoilt: Path) -> None:
    make, network = onnx.helper.make_node, onnx.load(reward / "model.onnx")
    nodes = network.graph.node
    size = onnx.numpy_helper.from_array(np.array([1 << 34]), "size")
    network.graph.initializer.append(size)
    last = next(node for node in nodes if node.output[0] == "rewards")
    last.output[0] = "small"
    nodes.append(make("ConstantOfShape", ["size"], ["vast"]))
    nodes.append(make("ReduceSum", ["vast"], ["sum"], keepdims=0))
    nodes.append(make("Add", ["small", "sum"], ["rewards"]))
    path = spoilt / "model.onnx"
    path.write_bytes(network.SerializeToString())
    message = refused_cleanly(
        lambda: probe(path, reward / "tokenizer.json", ["vast"]), may_start=True
    )
    assert message is not None and "llocat" in message


OUTSIDE = ("../secret.bin", "sub/../../secret.bin", "/proc/self/environ", "link.bin")


def reading_from(network: onnx.ModelProto, location: str) -> onnx.ModelProto:
    """The same network, its first weights read from another file."""
    weights = network.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "136")):
        weights.external_data.add(key=key, value=value)
    return network


@pytest.fixture(name="apart")
def _apart(reward: Path, tmp_path: Path) -> Path:
    """A reward model whose weights are in a file of their own, as its manifest says."""
    folder = Path(shutil.copytree(reward, tmp_path / "apart"))
    network = onnx.load(folder / "model.onnx")
    (folder / "weights.bin").write_bytes(network.graph.initializer[0].raw_data)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (tmp_path / "secret.bin").write_bytes(b"\x00" * 4 * 34)
    reading_from(network, "weights.bin")
    (folder / "model.onnx").write_bytes(network.SerializeToString())
    return folder


def listing(folder: Path, *names: str) -> Path:
    digests = {name: sha256(folder / name) for name in names}
    write_reward_manifest(folder, replace(tiny_manifest(folder), data_files=digests))
    return folder


def test_weights_in_a_file_of_their_own_are_read_where_it_is_listed(
    reward: Path, apart: Path
) -> None:
    items = [(PROMPT, "I am nobody.")]
    inside = OnnxRewardModel(reward, provider="cpu", threads=1).score(items)
    listed = OnnxRewardModel(listing(apart, "weights.bin"), provider="cpu", threads=1)
    assert listed.score(items) == inside
    listing(apart)
    message = refused_cleanly(lambda: OnnxRewardModel(apart, provider="cpu"), may_start=True)
    assert message is not None and "'weights.bin', which data_files" in message


def test_a_file_beside_the_network_that_was_changed_is_found(apart: Path) -> None:
    listing(apart, "weights.bin")
    OnnxRewardModel(apart, provider="cpu", threads=1)
    (apart / "weights.bin").write_bytes(b"\x01" + (apart / "weights.bin").read_bytes()[1:])
    message = refused_cleanly(lambda: OnnxRewardModel(apart, provider="cpu"), may_start=True)
    assert message is not None and "weights.bin has sha256" in message


@pytest.mark.parametrize("location", OUTSIDE)
def test_a_network_that_reads_another_file_is_refused(
    reward: Path, apart: Path, location: str
) -> None:
    """By its manifest, and by the trial as well."""
    path = apart / "model.onnx"
    path.write_bytes(reading_from(onnx.load(reward / "model.onnx"), location).SerializeToString())
    listing(apart, "weights.bin")
    message = refused_cleanly(lambda: OnnxRewardModel(apart, provider="cpu"), may_start=True)
    assert message is not None and f"reads its weights from {location!r}" in message
    message = refused_cleanly(
        lambda: probe(path, apart / "tokenizer.json", [location]), may_start=True
    )
    assert message is not None and "External data path" in message


PLACES = ("attribute", "subgraph", "function", "sparse")


@pytest.mark.parametrize("place", PLACES)
def test_weights_elsewhere_are_found_wherever_a_network_holds_tensors(
    reward: Path, tmp_path: Path, place: str
) -> None:
    network = onnx.load(reward / "model.onnx")
    tensor = reading_from(onnx.load(reward / "model.onnx"), "there.bin").graph.initializer[0]
    node = onnx.helper.make_node("Constant", [], ["constant"], value=tensor)
    if place == "attribute":
        network.graph.node.append(node)
    elif place == "subgraph":
        inner = onnx.helper.make_graph([node], "inner", [], [])
        network.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner))
    elif place == "function":
        network.functions.append(onnx.helper.make_function("d", "f", [], ["constant"], [node], []))
    else:
        network.graph.sparse_initializer.add(values=tensor)
    path = tmp_path / "model.onnx"
    path.write_bytes(network.SerializeToString())
    assert external_files(reward / "model.onnx") == set()
    assert external_files(path) == {"there.bin"}


@cases()
@given(st.data())
def test_what_a_spoilt_network_reads(apart_bytes: bytes, spoilt: Path, data: st.DataObject) -> None:
    path = spoilt / "model.onnx"
    path.write_bytes(data.draw(spoilt_bytes(apart_bytes) | st.binary(max_size=200)))
    refused_cleanly(lambda: external_files(path))


def test_a_whole_folder_of_another_s_making_is_refused_in_words(spoilt: Path) -> None:
    message = refused_cleanly(lambda: OnnxRewardModel(spoilt, provider="cpu"), may_start=True)
    assert message is not None and str(spoilt) in message
