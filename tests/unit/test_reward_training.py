from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.errors import DataError, RewardError, UsageError
from stars_local.preferences.sources import SourceSpec
from stars_local.training.checkpoint import load_checkpoint, load_network
from stars_local.training.loop import StepReport
from stars_local.training.network import EncoderConfig, RewardNetwork, load_encoder, pad
from stars_local.training.objective import certainty, learning_rate_factor, preference_loss
from stars_local.training.settings import TrainingSettings
from stars_local.training.train_run import train_reward
from tests.support.tiny_encoder import SEP_ID, tiny_network, write_tiny_encoder

pytestmark = pytest.mark.slow

GOOD, BAD, FILLER = "kind", "cruel", ["one", "two", "three", "four", "human", ":"]
N_PAIRS = 60


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "encoder"
    return write_tiny_encoder(folder, [GOOD, BAD, *FILLER])


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[SourceSpec]:
    """Pairs that one word decides, and labelled texts that the other word does."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {
            "prompt": f"{FILLER[i % 4]} {i}",
            "chosen": f"{FILLER[i % 3]} {GOOD} {i}",
            "rejected": f"{FILLER[i % 2]} {BAD} {i}",
        }
        for i in range(N_PAIRS)
    ]
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    texts = folder / "texts"
    texts.write_text(
        "".join(f"{i % 2} {GOOD if i % 2 else BAD} {FILLER[i % 4]} {i}\n" for i in range(N_PAIRS)),
        encoding="utf-8",
    )
    return [
        SourceSpec.parse(f"harmless={pairs},licence=MIT,name=pairs"),
        SourceSpec.parse(f"sentiment={texts},licence=MIT,name=texts"),
    ]


def settings(**changes: Any) -> TrainingSettings:
    return replace(
        TrainingSettings(
            axis_weights={},
            epochs=4,
            seed=3,
            batch_size=8,
            learning_rate=5e-3,
            head_learning_rate=2e-2,
            average_decay=0.8,
            patience=4,
        ),
        **changes,
    )


def train(
    specs: list[SourceSpec], encoder: Path, out: Path, *, resume: bool = False, **options: Any
) -> dict[str, Any]:
    on_step = options.pop("on_step", lambda report: None)
    save_every = options.pop("save_every", 200)
    return train_reward(
        specs,
        [],
        encoder,
        out,
        settings(**options),
        held_out_share=0.25,
        device="cpu",
        resume=resume,
        save_every=save_every,
        on_step=on_step,
    )


@pytest.fixture(scope="module")
def trained(
    specs: list[SourceSpec], encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("out") / "model"
    return out, train(specs, encoder, out)


def test_training_learns_what_decides_the_pairs(trained: tuple[Path, dict[str, Any]]) -> None:
    _, card = trained
    first, best = card["curve"][0], card["curve"][card["best_epoch"] - 1]
    assert best["held_out"]["loss"] <= first["held_out"]["loss"]
    for source in ("pairs", "texts"):
        assert best["held_out"]["accuracy"][source]["whole"]["accuracy"] > 0.9


def test_a_teacher_that_prefers_the_rejected_ones_is_believed(
    specs: list[SourceSpec], encoder: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in specs[0].path.read_text(encoding="utf-8").splitlines()]
    taught = tmp_path / "taught.jsonl"
    lines = (json.dumps({**row, "margin": -4.0}) for row in rows)
    taught.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    spec = SourceSpec.parse(f"harmless={taught},licence=MIT,name=taught")
    card = train([spec], encoder, tmp_path / "model")
    best = card["curve"][card["best_epoch"] - 1]["held_out"]
    assert best["accuracy"]["taught"]["whole"]["accuracy"] < 0.2
    assert best["loss"] < math.log(2.0)


def test_the_card_tells_of_data_seed_split_and_curve(
    trained: tuple[Path, dict[str, Any]], specs: list[SourceSpec]
) -> None:
    out, card = trained
    assert card == json.loads((out / "card.json").read_text(encoding="utf-8"))
    assert card["ships"] is True
    assert card["settings"]["seed"] == 3
    assert [source["licence"] for source in card["sources"]] == ["MIT", "MIT"]
    assert len(card["curve"]) <= 4
    split = card["split"]
    used = sum(source["pairs_used"] for source in card["sources"])
    held_out = sum(split["held_out_pairs"].values())
    assert 0 < held_out < used
    assert str(specs[0].path.parent) not in json.dumps(card)


def test_a_checkpoint_holds_no_pickle_and_loads_with_its_best_weights(
    trained: tuple[Path, dict[str, Any]],
) -> None:
    out, card = trained
    names = {path.suffix for path in out.iterdir()}
    assert names == {".json", ".safetensors"}
    network = load_network(out)
    assert network.axes == ("harmless", "sentiment")
    assert not network.training
    _, tensors = load_checkpoint(out)
    assert torch.equal(network.head.weight, tensors["best.head.weight"])
    last = card["best_epoch"] == len(card["curve"])
    assert torch.equal(tensors["best.head.weight"], tensors["average.head.weight"]) is last


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 8, 12, 25])
def test_a_resumed_run_ends_with_the_same_weights_as_an_uninterrupted_one(
    trained: tuple[Path, dict[str, Any]],
    specs: list[SourceSpec],
    encoder: Path,
    tmp_path: Path,
    stop_at: int,
) -> None:
    def stop(report: StepReport) -> None:
        if report.done == stop_at:
            raise Interrupted

    out = tmp_path / "model"
    with pytest.raises(Interrupted):
        train(specs, encoder, out, on_step=stop, save_every=5)
    has_checkpoint = (out / "checkpoint.json").exists()
    card = train(specs, encoder, out, resume=has_checkpoint)
    expected_out, expected_card = trained
    assert card == expected_card
    expected = load_checkpoint(expected_out)[1]
    found = load_checkpoint(out)[1]
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_another_seed_gives_another_model(
    trained: tuple[Path, dict[str, Any]], specs: list[SourceSpec], encoder: Path, tmp_path: Path
) -> None:
    train(specs, encoder, tmp_path / "other", seed=4, epochs=1)
    other = load_network(tmp_path / "other")
    assert not torch.equal(other.head.weight, load_network(trained[0]).head.weight)


def test_training_stops_when_patience_ends(
    specs: list[SourceSpec], encoder: Path, tmp_path: Path
) -> None:
    # A rate this high only does harm after the first epochs.
    card = train(specs, encoder, tmp_path / "x", epochs=12, patience=1, learning_rate=0.3)
    losses = [point["held_out"]["loss"] for point in card["curve"]]
    assert len(losses) < 12
    assert card["best_epoch"] == len(losses) - 1
    assert losses[-1] >= min(losses)


def test_resuming_with_other_settings_is_refused(
    trained: tuple[Path, dict[str, Any]], specs: list[SourceSpec], encoder: Path
) -> None:
    with pytest.raises(DataError, match="another seed, batch_size"):
        train(specs, encoder, trained[0], resume=True, seed=4, batch_size=4)


def test_an_existing_checkpoint_is_not_overwritten(
    trained: tuple[Path, dict[str, Any]], specs: list[SourceSpec], encoder: Path
) -> None:
    with pytest.raises(UsageError, match="add --resume"):
        train(specs, encoder, trained[0])


def test_a_source_that_forbids_commercial_use_bars_shipping(
    specs: list[SourceSpec], encoder: Path, tmp_path: Path
) -> None:
    barred = [specs[0], replace(specs[1], licence="CC BY-NC 4.0")]
    card = train(barred, encoder, tmp_path / "x", epochs=1)
    assert card["ships"] is False
    assert card["evaluation_only_because_of"] == ["CC BY-NC 4.0"]


def test_an_axis_weight_without_data_is_refused(
    specs: list[SourceSpec], encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="'wit'"):
        train(specs, encoder, tmp_path / "x", axis_weights={"wit": 1.0})


sequences = st.lists(
    st.tuples(
        st.lists(st.integers(4, 19), max_size=8), st.lists(st.integers(4, 19), max_size=8)
    ).map(lambda both: [2, *both[0], SEP_ID, *both[1], SEP_ID]),
    min_size=1,
    max_size=5,
)


@given(sequences)
def test_a_reward_does_not_depend_on_neighbours_or_padding(texts: list[list[int]]) -> None:
    network = tiny_network(("a", "b"))
    with torch.inference_mode():
        together = network(*pad(texts, torch.device("cpu")))
        alone = torch.cat([network(*pad([text], torch.device("cpu"))) for text in texts])
    assert together.shape == (len(texts), 2)
    assert torch.allclose(together, alone, atol=1e-5)


def test_prompt_and_response_are_told_apart() -> None:
    network = tiny_network(("a",))
    texts = [[2, 5, SEP_ID, 6, 7, SEP_ID], [2, 5, 6, SEP_ID, 7, SEP_ID]]
    with torch.inference_mode():
        first, second = network(*pad(texts, torch.device("cpu")))[:, 0].tolist()
    assert abs(first - second) > 1e-4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_encoder_computes_what_the_reference_implementation_does(encoder: Path) -> None:
    from transformers import BertConfig, BertModel

    config = EncoderConfig.read(encoder / "config.json")
    ours = RewardNetwork(config, ("a",), SEP_ID).eval()
    load_encoder(ours, encoder)
    sizes = {k: v for k, v in config.to_json().items() if k != "dropout"}
    reference = BertModel(BertConfig(**sizes)).eval()
    from safetensors.torch import load_file

    missing = reference.load_state_dict(load_file(str(encoder / "model.safetensors")), strict=False)
    assert all(name.startswith("pooler") for name in missing.missing_keys)
    ids, mask = pad([[2, 5, 6, SEP_ID, 7, SEP_ID], [2, SEP_ID, 8, SEP_ID]], torch.device("cpu"))
    types = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0]])
    seen: list[torch.Tensor] = []
    ours.layers[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        ours(ids, mask)
        expected = reference(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    real = mask.bool()
    assert torch.allclose(seen[0][real], expected[real], atol=1e-5)


rewards = st.lists(st.floats(-5, 5), min_size=1, max_size=8).map(torch.tensor)


def loss_of(
    chosen: torch.Tensor, rejected: torch.Tensor, smoothing: float = 0.0, weight: float = 0.0
) -> float:
    p = certainty([None] * len(chosen), smoothing)
    return float(preference_loss(chosen, rejected, p, centre_weight=weight))


@given(rewards, st.floats(0.1, 3.0))
def test_the_loss_falls_with_the_margin_and_is_log_two_without_one(
    chosen: torch.Tensor, step: float
) -> None:
    assert loss_of(chosen, chosen) == pytest.approx(math.log(2.0))
    assert loss_of(chosen, chosen - step) < math.log(2.0) < loss_of(chosen, chosen + step)


@given(rewards, st.floats(-4.0, 4.0), st.floats(0.1, 2.0))
def test_the_loss_of_a_teacher_s_pair_is_least_at_its_margin(
    chosen: torch.Tensor, margin: float, step: float
) -> None:
    def loss(found: float) -> float:
        p = certainty([margin] * len(chosen), 0.3)
        return float(preference_loss(chosen, chosen - found, p, centre_weight=0.0))

    assert loss(margin) < loss(margin + step)
    assert loss(margin) < loss(margin - step)


@given(rewards, st.floats(0.01, 0.4), st.floats(0.01, 1.0))
def test_smoothing_bounds_the_best_margin_and_centring_punishes_an_offset(
    chosen: torch.Tensor, smoothing: float, weight: float
) -> None:
    best = math.log((1 - smoothing) / smoothing)
    lowest = loss_of(chosen, chosen - best, smoothing)
    assert lowest < loss_of(chosen, chosen - best - 0.5, smoothing)
    assert lowest < loss_of(chosen, chosen - best + 0.5, smoothing)
    assert loss_of(chosen, -chosen, weight=weight) == pytest.approx(loss_of(chosen, -chosen))
    offset = loss_of(chosen + 9, 9 - chosen, weight=weight) - loss_of(chosen, -chosen)
    assert offset == pytest.approx(weight * 18.0**2, rel=1e-3)


@given(st.integers(1, 2000), st.floats(0.0, 0.5))
def test_the_learning_rate_rises_then_falls_and_is_never_zero(total: int, warmup: float) -> None:
    factors = [learning_rate_factor(step, total, warmup) for step in range(total)]
    peak = factors.index(max(factors))
    assert all(0.0 < factor <= 1.0 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_broken_encoders_and_checkpoints_are_named(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"cannot read the encoder's .*config.json"):
        EncoderConfig.read(tmp_path / "config.json")
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config | {"model_type": "gpt2"}), encoding="utf-8")
    with pytest.raises(RewardError, match="model_type 'gpt2'"):
        EncoderConfig.read(path)
    del config["hidden_size"]
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RewardError, match="no field 'hidden_size'"):
        EncoderConfig.read(path)
    deeper = replace(EncoderConfig.read(encoder / "config.json"), num_hidden_layers=3)
    with pytest.raises(RewardError, match=r"no tensor 'encoder\.layer\.2"):
        load_encoder(RewardNetwork(deeper, ("a",), SEP_ID), encoder)
    wider = replace(deeper, num_hidden_layers=2, intermediate_size=33)
    with pytest.raises(RewardError, match="has shape"):
        load_encoder(RewardNetwork(wider, ("a",), SEP_ID), encoder)
    with pytest.raises(DataError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / "checkpoint.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="not a checkpoint of format"):
        load_checkpoint(tmp_path)
