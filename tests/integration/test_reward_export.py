"""Every architecture, tiny and random: exported, held against torch, and scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stars_local.compose import render_chat
from stars_local.core.errors import RewardError, UsageError
from stars_local.core.records import Message, Prompt
from stars_local.exporting import export
from stars_local.exporting.export import Exported, ExportOptions, export_reward
from stars_local.preferences.pairs import Pair
from stars_local.reward.check import check_model
from stars_local.reward.manifest import Form, Kind, Style, read_manifest
from stars_local.reward.onnx_model import OnnxRewardModel
from stars_local.reward.templates import pad_right
from stars_local.training.checkpoint import load_network
from tests.support.tiny_reward import WORDS
from tests.support.tiny_sources import (
    ARCHITECTURES,
    tiny_model,
    write_tiny_checkpoint,
    write_tiny_source,
)

pytestmark = pytest.mark.model

ASK = Prompt("ask", (Message("user", "help kill ?"),))
_WORDS = np.random.default_rng(2)
torch.set_num_threads(1)  # tiny networks: more threads only wait for each other
REFERENCE = (
    "random words",
    [(ASK, " ".join(_WORDS.choice(WORDS, size=n % 17 + 1))) for n in range(60)],
)
Make = Callable[..., tuple[OnnxRewardModel, Exported]]


@pytest.fixture
def exported(tmp_path: Path) -> Make:
    def make(source: Path, **options: object) -> tuple[OnnxRewardModel, Exported]:
        given = ExportOptions("tiny", **options)  # type: ignore[arg-type]
        made = export_reward(source, tmp_path / "out", given, REFERENCE, {})
        return OnnxRewardModel(tmp_path / "out", provider="cpu", threads=1, trusted=True), made

    return make


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_is_exported_faithfully(
    architecture: str, exported: Make, tmp_path: Path
) -> None:
    model, made = exported(write_tiny_source(tmp_path / "source", architecture))
    assert made.fp32_drift <= 1e-4
    assert made.manifest.axes[0].spread > 0.01  # outputs that do not vary would match anything
    report = check_model(model, "cpu")
    assert report.passed
    assert report.independence.invariant
    assert model.batch_invariant
    process = architecture.endswith("TokenClassification")
    assert (made.manifest.kind is Kind.PROCESS) is process


@pytest.mark.parametrize(
    "architecture",
    ["BertForSequenceClassification", "LlamaForSequenceClassification",
     "Qwen2ForTokenClassification"],
)  # fmt: skip
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_weights_keep_the_order(
    architecture: str, precision: str, exported: Make, tmp_path: Path
) -> None:
    source = write_tiny_source(tmp_path / "source", architecture)
    model, made = exported(source, precision=precision)
    assert made.manifest.precision == precision
    assert made.rank_correlation["reward"] > 0.99
    assert model.batch_invariant
    assert check_model(model, "cpu").passed


def test_a_decoder_is_read_at_its_last_real_token(exported: Make, tmp_path: Path) -> None:
    """Against the library's own way: one text, no padding, the last position's logits."""
    source = write_tiny_source(tmp_path / "source", "LlamaForSequenceClassification")
    model, _ = exported(source)
    axis = model.manifest.axes[0]
    whole = tiny_model("LlamaForSequenceClassification")
    for response in ("yes", "no help kill sure", ""):
        ids = model.encode(ASK, response)
        with torch.no_grad():
            wanted = float(whole(input_ids=torch.tensor([ids])).logits[0, 0])
        found = model.run_batch([ids], extra=5)[0, 0] * axis.spread + axis.mean
        assert found == pytest.approx(wanted, abs=1e-4)


def test_a_process_model_is_read_where_the_step_ends(exported: Make, tmp_path: Path) -> None:
    source = write_tiny_source(tmp_path / "source", "Qwen2ForTokenClassification", num_labels=2)
    model, made = exported(source, response_end=" .")
    assert made.manifest.kind is Kind.PROCESS
    axis = made.manifest.axes[0]
    ids = model.encode(ASK, "yes no")
    assert ids[-1] == model.encode(ASK, ".")[-1]
    with torch.no_grad():
        whole = tiny_model("Qwen2ForTokenClassification", 2)
        logits = whole(input_ids=torch.tensor([ids])).logits[0, -1]
    found = model.run_batch([ids])[0, 0] * axis.spread + axis.mean
    assert found == pytest.approx(float(logits[1] - logits[0]), abs=1e-4)


def test_a_decoder_with_a_chat_template_keeps_it(tmp_path: Path) -> None:
    source = write_tiny_source(tmp_path / "source", "Qwen2ForSequenceClassification")
    jinja = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    settings = {"chat_template": jinja, "eos_token": "<|im_end|>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    out = tmp_path / "out"
    export_reward(source, out, ExportOptions("tiny"), REFERENCE, {}, render=render_chat)
    model = OnnxRewardModel(out, provider="cpu", trusted=True, render=render_chat)
    assert model.manifest.template.style is Style.TOKENIZER
    ids = model.encode(ASK, "yes <|im_end|>")
    assert [ids.count(4), ids.count(5), ids[-1]] == [1, 2, 5]  # one turn, and the response's end
    assert check_model(model, "cpu").passed


def test_half_precision_weights_are_cast_before_export(exported: Make, tmp_path: Path) -> None:
    name = "DebertaV2ForSequenceClassification"
    source = write_tiny_source(tmp_path / "source", name, dtype=torch.float16)
    _, made = exported(source)
    assert made.fp32_drift <= 1e-4


def test_bert_pairs_have_token_types(exported: Make, tmp_path: Path) -> None:
    source = write_tiny_source(tmp_path / "source", "BertForSequenceClassification")
    model, made = exported(source)
    assert (made.manifest.template.form, made.manifest.template.style) == (Form.PAIR, Style.PLAIN)
    ids = model.encode(ASK, "yes no")
    border = ids.index(3)
    types = [0] * (border + 1) + [1] * (len(ids) - border - 1)
    with torch.no_grad():
        wanted = tiny_model("BertForSequenceClassification")(
            input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])
        ).logits[0, 0]
    axis = made.manifest.axes[0]
    found = model.run_batch([ids])[0, 0] * axis.spread + axis.mean
    assert found == pytest.approx(float(wanted), abs=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_checkpoint_of_ours_is_exported(precision: str, exported: Make, tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source")
    model, made = exported(source, precision=precision)
    manifest = made.manifest
    assert [axis.name for axis in manifest.axes] == ["harmless", "helpful"]
    assert (manifest.max_tokens, manifest.max_prompt_tokens) == (48, 16)
    assert (manifest.licence, manifest.training_card) == ("MIT", "card.json")
    assert check_model(model, "cpu").passed
    rows = [model.encode(*item) for item in REFERENCE[1]]
    with torch.no_grad():
        ids, mask = pad_right(rows, 0)
        wanted = load_network(source)(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    found = model.score_ids(rows)[0]
    for place, axis in enumerate(manifest.axes):
        raw = found[:, place] * axis.spread + axis.mean
        off = np.abs(raw - wanted[:, place]).max()
        assert off < (1e-4 if precision == "fp32" else 0.1 * axis.spread)
    assert found.mean(axis=0) == pytest.approx([0, 0], abs=1e-3)
    assert found.std(axis=0, ddof=1) == pytest.approx([1, 1], abs=1e-3)


def test_axes_may_be_differences_and_turned_around(exported: Make, tmp_path: Path) -> None:
    source = write_tiny_source(tmp_path / "s", "BertForSequenceClassification", num_labels=3)
    model, made = exported(
        source,
        axes=[("good", (2,), (0,)), ("bad", (1,), ())],
        negated=frozenset({"bad"}),
    )
    ids = model.encode(ASK, "yes")
    with torch.no_grad():
        types = torch.tensor([[0] * (ids.index(3) + 1) + [1] * (len(ids) - ids.index(3) - 1)])
        logits = tiny_model("BertForSequenceClassification", 3)(
            input_ids=torch.tensor([ids]), token_type_ids=types
        ).logits[0]
    found = model.run_batch([ids])[0]
    good, bad = made.manifest.axes
    assert found[0] * good.spread + good.mean == pytest.approx(
        float(logits[2] - logits[0]), abs=1e-4
    )
    assert found[1] * bad.spread + bad.mean == pytest.approx(-float(logits[1]), abs=1e-4)


def test_labelled_pairs_give_figures(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source")
    pairs = [Pair((), "yes sure", "no kill", "helpful", "x", n) for n in range(4)]
    made = export_reward(
        source, tmp_path / "out", ExportOptions("tiny", "int8"), REFERENCE, {"four": pairs}
    )
    assert made.accuracy_change == {"four": 0.0}
    figure = read_manifest(tmp_path / "out").accuracy[0]
    assert (figure.data, figure.axis, figure.pairs) == ("four", "helpful", 4)


def test_what_drifts_is_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tiny_checkpoint(tmp_path / "source")
    monkeypatch.setattr(export, "MAX_FP32_DRIFT", -1.0)
    with pytest.raises(RewardError, match="strays from torch"):
        export_reward(source, tmp_path / "out", ExportOptions("tiny"), REFERENCE, {})
    monkeypatch.undo()
    monkeypatch.setattr(export, "MIN_RANK_CORRELATION", 1.0)
    with pytest.raises(RewardError, match="changes the order on axis harmless"):
        export_reward(source, tmp_path / "out", ExportOptions("tiny", "int8"), REFERENCE, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_an_export_replaces_the_one_before(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source")
    for precision in ("fp32", "int8"):
        options = ExportOptions("tiny", precision)
        export_reward(source, tmp_path / "out", options, REFERENCE, {})
        model = OnnxRewardModel(tmp_path / "out", provider="cpu", trusted=True)
        assert model.manifest.precision == precision


def refused(source: Path, tmp_path: Path, **options: object) -> str:
    with pytest.raises((RewardError, UsageError)) as caught:
        export_reward(
            source,
            tmp_path / "out",
            ExportOptions("tiny", **options),
            REFERENCE,
            {},  # type: ignore[arg-type]
        )
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    source = write_tiny_source(tmp_path / "source", "BertForSequenceClassification")
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    assert "pytorch_model.bin, a pickle" in refused(source, tmp_path)


def test_untrained_heads_unknown_architectures_and_code_are_refused(tmp_path: Path) -> None:
    source = write_tiny_source(tmp_path / "source", "BertForSequenceClassification")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))

    def rewrite(**changes: object) -> None:
        (source / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")

    rewrite(architectures=["EvilForSequenceClassification"], auto_map={"AutoModel": "evil.Evil"})
    assert "EvilForSequenceClassification cannot be exported" in refused(source, tmp_path)
    rewrite(num_hidden_layers=3)
    assert "the weights lack bert.encoder.layer.2" in refused(source, tmp_path)
    (source / "model.safetensors").write_bytes(b"\xff" * 64)
    assert "cannot load" in refused(source, tmp_path)
    assert "neither checkpoint.json" in refused(tmp_path / "nowhere", tmp_path)


def test_senseless_options_are_refused(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source")
    assert "'int4'" in refused(source, tmp_path, precision="int4")
    assert "column 9" in refused(source, tmp_path, axes=[("a", (9,), ())])
    assert "--negate 'kind'" in refused(source, tmp_path, negated=frozenset({"kind"}))
    assert "chat template" in refused(source, tmp_path, style=Style.TOKENIZER, form=Form.SINGLE)
