"""The running reward model: its numbers, its policy of batches, and files that are wrong."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from stars_local.core.errors import RewardError, RewardValueError, UsageError
from stars_local.core.records import Message, Prompt
from stars_local.reward import onnx_model, probe, session
from stars_local.reward.check import check_before_run, check_model
from stars_local.reward.combine import CombinedReward
from stars_local.reward.golden import golden_texts
from stars_local.reward.manifest import write_manifest
from stars_local.reward.onnx_model import OnnxRewardModel
from stars_local.reward.resolve import find_model, open_reward
from tests.support.tiny_reward import (
    manifest_of,
    network,
    sha256,
    table,
    tiny_tokenizer,
    write_tiny_reward,
)

ASK = Prompt("p", (Message("user", "kill"),))


def opened(folder: Path) -> OnnxRewardModel:
    return OnnxRewardModel(folder, provider="cpu", threads=1, trusted=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_reward(tmp_path_factory.mktemp("onnx") / "tiny")


def rewritten(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save_model(model, str(folder / "model.onnx"))
    write_manifest(folder, replace(manifest_of(folder), sha256=sha256(folder / "model.onnx")))
    return folder


def test_a_reward_is_the_signed_output_in_spreads(folder: Path) -> None:
    model = opened(folder)
    found = model.score([(ASK, "sorry")]).rewards[0]
    ids = model.encode(ASK, "sorry")
    raw = table()[ids].mean(axis=0)
    assert found.axes["harmless"] == pytest.approx((raw[0] - 0.25) / 0.5, abs=1e-5)
    assert found.axes["helpful"] == pytest.approx((-raw[1] + 1.0) / 2.0, abs=1e-5)
    assert found.value == found.axes["harmless"]
    assert found.passed


def test_another_axis_may_be_steered(folder: Path) -> None:
    model = OnnxRewardModel(folder, axis="helpful", provider="cpu", trusted=True)
    reward = model.score([(ASK, "no")]).rewards[0]
    assert reward.value == reward.axes["helpful"]
    assert model.info.axis == "helpful"
    with pytest.raises(RewardError, match="did you mean 'helpful'"):
        OnnxRewardModel(folder, axis="helpfull", provider="cpu", trusted=True)


def test_costs_are_counted(folder: Path) -> None:
    scores = opened(folder).score([(ASK, "no"), (ASK, "yes"), (ASK, "no " * 12)])
    lengths = [len(opened(folder).encode(ASK, text)) for text in ("no", "yes", "no " * 12)]
    assert scores.n_tokens == tuple(lengths)
    assert scores.n_batches == 2  # the long one would fill the short ones up with padding
    assert opened(folder).score([]).rewards == ()


@pytest.mark.parametrize(("variant", "which"), [("batch", "batched"), ("padding", "padded")])
def test_a_model_that_fails_is_scored_alone_and_says_so(
    tmp_path: Path, variant: str, which: str
) -> None:
    model = opened(write_tiny_reward(tmp_path / variant, variant=variant))
    assert model.batch_invariant  # as the manifest claims
    report = check_model(model, "cpu")
    assert report.passed
    assert not model.batch_invariant
    assert getattr(report.independence, which) > 1e-4
    assert "one text at a time" in "\n".join(report.lines())
    items = golden_texts()
    together = model.score(items)
    assert together.n_batches == len(items)
    assert [r.value for r in together.rewards] == [
        model.score([item]).rewards[0].value for item in items
    ]


def test_a_good_model_passes_the_check(folder: Path) -> None:
    model = opened(folder)
    report = check_model(model, "cpu")
    assert report.passed
    assert report.batched
    assert report.to_json()["provider"] == "cpu"
    assert check_before_run(model, "auto")[2] == "provider cpu (asked for auto)"


def test_missed_golden_scores_stop_a_long_run(tmp_path: Path) -> None:
    folder = write_tiny_reward(tmp_path / "tiny")
    weights = table()
    weights[1] += 0.01
    with pytest.raises(RewardError, match="golden scores"):
        check_before_run(opened(rewritten(folder, network(weights))), "auto")


def test_nan_is_an_error_that_names_axis_and_prompt(tmp_path: Path) -> None:
    folder = write_tiny_reward(tmp_path / "nan")
    model = opened(rewritten(folder, network(table(), "nan")))
    with pytest.raises(RewardValueError, match=r"nan on harmless .* prompt 'p'"):
        model.score([(ASK, "no")])
    assert not check_model(model, "cpu").passed


def test_changed_files_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("model.onnx", "tokenizer.json"):
        folder = write_tiny_reward(tmp_path / name)
        with (folder / name).open("ab") as file:
            file.write(b" ")
        with pytest.raises(RewardError, match=rf"{name} has sha256"):
            opened(folder)
        (folder / name).unlink()
        with pytest.raises(RewardError, match=name):
            opened(folder)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_reward(tmp_path / "tiny")
    tiny_tokenizer(tuple(f"w{i}" for i in range(40))).save(str(folder / "tokenizer.json"))
    write_manifest(folder, manifest_of(folder))
    with pytest.raises(RewardError, match=r"token id 45 .* does not fit"):
        opened(folder)


def test_an_axis_without_an_output_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_reward(tmp_path / "tiny")
    axes = manifest_of(folder).axes
    wrong = (replace(axes[0], output=7), axes[1])
    write_manifest(folder, replace(manifest_of(folder), axes=wrong))
    with pytest.raises(RewardError, match="does not fit"):
        opened(folder)


def _with_inputs(names: tuple[str, ...], output: str) -> onnx.ModelProto:
    kind = TensorProto.INT64
    inputs = [helper.make_tensor_value_info(name, kind, ["b", "l"]) for name in names]
    out = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["b", "l"])
    node = helper.make_node("Cast", [names[0]], [output], to=TensorProto.FLOAT)
    graph = helper.make_graph([node], "g", inputs, [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("names", "output", "said"),
    [
        (("input_ids",), "rewards", "the inputs are input_ids tensor"),
        (("input_ids", "attention_mask", "token_type_ids"), "rewards", "the inputs are"),
        (("input_ids", "attention_mask"), "logits", "the outputs are logits"),
    ],
)
def test_networks_of_other_signatures_are_refused(
    tmp_path: Path, names: tuple[str, ...], output: str, said: str
) -> None:
    folder = rewritten(write_tiny_reward(tmp_path / "tiny"), _with_inputs(names, output))
    with pytest.raises(RewardError, match=said):
        opened(folder)


@pytest.mark.parametrize("content", [b"", b"garbage", os.urandom(4000), b"\x08" * 100])
def test_garbage_is_one_line_and_the_process_lives(tmp_path: Path, content: bytes) -> None:
    folder = write_tiny_reward(tmp_path / "tiny")
    (folder / "model.onnx").write_bytes(content)
    write_manifest(folder, manifest_of(folder))
    with pytest.raises(RewardError) as caught:
        OnnxRewardModel(folder, provider="cpu")
    assert "model.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_child_that_dies_is_an_error_and_not_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_PROGRAM", "import os; os.abort()")
    for _ in range(2):
        with pytest.raises(RewardError, match="ended a trial process with code -6"):
            probe.probe(folder / "model.onnx", folder / "tokenizer.json", ["dies"])


def test_a_good_verdict_is_remembered_by_digest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (folder / "model.onnx", folder / "tokenizer.json")
    probe.probe(*files, ["good"])
    monkeypatch.setattr(probe, "_PROGRAM", "import os; os.abort()")
    probe.probe(*files, ["good"])
    with pytest.raises(RewardError):
        probe.probe(*files, ["another"])


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_reward(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text('{"model": 3}', encoding="utf-8")
    write_manifest(folder, manifest_of(folder))
    with pytest.raises(RewardError, match=r"tokenizer\.json"):
        OnnxRewardModel(folder, provider="cpu")


def test_a_provider_that_is_not_there_is_an_error_unless_auto(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RewardError, match="coreml"):
        OnnxRewardModel(folder, provider="coreml", trusted=True)
    with pytest.raises(UsageError, match="'gpu'"):
        OnnxRewardModel(folder, provider="gpu", trusted=True)
    assert OnnxRewardModel(folder, provider="auto", trusted=True).provider in {"cpu", "cuda"}
    assert capfd.readouterr() == ("", "")


def test_what_the_runtime_took_is_compared_with_what_was_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that has the CUDA provider but cannot load it quietly takes the CPU."""
    monkeypatch.setattr(session, "_is_built_in", lambda provider: True)
    wanted = dict(session._FULL_NAMES, coreml="CPUExecutionProvider", cuda="Absent")
    monkeypatch.setattr(session, "_FULL_NAMES", wanted)
    with pytest.warns(UserWarning, match="Absent"), pytest.raises(RewardError, match="cuda"):
        OnnxRewardModel(folder, provider="cuda", trusted=True)


def test_a_wrong_provider_is_caught_by_golden_scores(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRewardModel, "provider", "cuda")
    monkeypatch.setattr(onnx_model, "golden_deviation", lambda model: 0.2)
    with pytest.raises(RewardError, match="off the golden scores"):
        OnnxRewardModel(folder, provider="cpu", trusted=True)


def test_models_are_found_by_folder_and_name(folder: Path, tmp_path: Path) -> None:
    assert find_model(str(folder)) == (folder.resolve(), False)
    with pytest.raises(RewardError, match=r"no reward\.json"):
        find_model(str(tmp_path))
    with pytest.raises(UsageError, match="no reward model 'hh-minlm'"):
        find_model("hh-minlm")


def test_a_model_under_two_names_is_opened_and_scored_once(folder: Path) -> None:
    gate = f"{folder}/../{folder.name}:harmless>=-100"
    both = open_reward(f"{folder}:helpful=1", [gate], provider="cpu")
    assert isinstance(both, CombinedReward)
    assert len(both.models) == 1
    assert both.score([(ASK, "no")]).n_batches == 1


def test_open_reward_reads_specifications(folder: Path) -> None:
    plain = open_reward(str(folder), provider="cpu")
    gated = open_reward(str(folder), ["helpful>=-100"], provider="cpu")
    mixed = open_reward(f"{folder}:helpful=0.5", ["harmless>=100"], provider="cpu")
    values = [m.score([(ASK, "no")]).rewards[0] for m in (plain, gated, mixed)]
    assert values[0].value == values[1].value
    assert values[1].passed
    assert values[2].value == pytest.approx(0.5 * values[0].axes["helpful"])
    assert not values[2].passed
    with pytest.raises(UsageError, match="no axis 'kind'"):
        open_reward(str(folder), ["kind>=0"], provider="cpu")
