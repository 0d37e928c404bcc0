"""Files of models: what parses them is native code, so a trial process takes the blows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.catalog.manifests import FileManifest, manifest_of, write_manifest
from stars_local.core.records import Message, Prompt
from stars_local.llama import template
from stars_local.llama.child import Child
from stars_local.llama.gguf_check import check_gguf, probe_with
from stars_local.reward.golden import read_golden
from stars_local.reward.manifest import read_manifest, to_json
from stars_local.reward.onnx_model import OnnxRewardModel
from stars_local.reward.probe import probe
from stars_local.reward.templates import TextEncoder
from tests.fuzz.contract import cases, refused_cleanly
from tests.fuzz.mutations import every_odd_value, json_or_bytes, spoilt_bytes
from tests.support.tiny_gguf import CHATML, write_tiny
from tests.support.tiny_reward import manifest_of as tiny_manifest
from tests.support.tiny_reward import write_tiny_reward
from tests.unit.chat_templates import FAMILIES
from tests.unit.test_gguf_check import header_bytes

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


# -- reward models -------------------------------------------------------------------------


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


@cases(share=0.01)
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


def test_a_network_that_reads_another_file_is_refused(reward: Path, spoilt: Path) -> None:
    secret = spoilt.parent / "secret.bin"
    secret.write_bytes(b"\x00" * 4 * 34)
    network = onnx.load(reward / "model.onnx")
    weights = network.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", "136")):
        weights.external_data.add(key=key, value=value)
    path = spoilt / "model.onnx"
    path.write_bytes(network.SerializeToString())
    message = refused_cleanly(
        lambda: probe(path, reward / "tokenizer.json", ["outside"]), may_start=True
    )
    assert message is not None


def test_a_whole_folder_of_another_s_making_is_refused_in_words(spoilt: Path) -> None:
    message = refused_cleanly(lambda: OnnxRewardModel(spoilt, provider="cpu"), may_start=True)
    assert message is not None and str(spoilt) in message


# -- language models -----------------------------------------------------------------------


@pytest.fixture(scope="module", name="child")
def _child() -> Iterator[Child]:
    with closing(Child()) as child:
        yield child


@cases(share=0.5)
@given(st.data())
def test_gguf_headers(
    child: Child, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    good = folder / "good.gguf"
    if not good.exists():
        write_tiny(good, "llama")
    path = folder / "spoilt.gguf"
    path.write_bytes(data.draw(spoilt_bytes(good.read_bytes(), 0, header_bytes(good))))

    def read() -> None:
        check_gguf(path)
        probe_with(child, path, 8.0, path.stat().st_size)

    refused_cleanly(read, may_start=True)


@cases()
@given(
    st.sampled_from([*FAMILIES.values(), CHATML]).flatmap(lambda text: spoilt_bytes(text.encode()))
)
def test_chat_templates(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    refused_cleanly(lambda: template.render(PROMPT, text, bos="<s>", eos="</s>"), may_start=True)


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 'x' * 10**10 }}",
        "{% for i in range(10**6) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ messages.__class__.__mro__ }}{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}{{ messages[0].content }}",
        "{% import 'os' as os %}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ lipsum(n=10**7) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ ('a' * 30 ~ '!') | replace('a', 'a' * 10**7) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ range(10**9) | list }}",
        "{{ (range(99999) | list | join).__len__() }}",
        "{" * 100_000,
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}"
        "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    ],
)
def test_hostile_chat_templates(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(template, "RENDER_LIMIT_S", 1.0)
    message = refused_cleanly(
        lambda: template.render(PROMPT, text, bos="<s>", eos="</s>"), may_start=True
    )
    assert message is not None


# -- the models folder ---------------------------------------------------------------------

MANIFEST = {
    "schema": 1,
    "file_name": "m.gguf",
    "source": "import:/m.gguf",
    "size_bytes": 3,
    "sha256": "a" * 64,
    "licence": None,
}


@pytest.fixture(scope="module", name="models")
def _models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_manifest(folder, FileManifest("m.gguf", "import:x", 3, "a" * 64))
    assert manifest_of(folder, "m.gguf") is not None
    return folder


def test_every_odd_value_in_a_manifest_of_the_models_folder(models: Path) -> None:
    for data in every_odd_value(MANIFEST):
        look_up(models, data)


@cases()
@given(data=json_or_bytes(MANIFEST))
def test_manifests_of_the_models_folder(models: Path, data: bytes) -> None:
    look_up(models, data)


def look_up(models: Path, data: bytes) -> None:
    (models / "manifests" / "m.gguf.json").write_bytes(data)

    def read() -> None:
        found = manifest_of(models, "m.gguf")
        assert found is not None
        assert (found.source + str(found.licence)).encode()

    refused_cleanly(read)
