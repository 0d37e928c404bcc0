"""Averages of training runs: the mean of weights, and only of runs that fit each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from stars_local.cli.app import app
from stars_local.core.errors import DataError, RewardError, UsageError
from stars_local.training.averaging import average_checkpoints
from stars_local.training.card import FORMAT
from stars_local.training.checkpoint import load_network, save_checkpoint
from stars_local.training.network import RewardNetwork
from tests.support.tiny_encoder import tiny_network

AXES = ("harmless", "helpful")


def member(axes: tuple[str, ...], seed: int) -> RewardNetwork:
    """A network whose every weight comes from `seed`, the biases too."""
    network = tiny_network(axes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.normal_(0.0, 0.3, generator=generator)
    return network


def run(folder: Path, seed: int, axes: tuple[str, ...] = AXES, **card: Any) -> Path:
    """A finished run: its best weights from `seed`, its last ones from `seed` + 100."""
    best, last = member(axes, seed), member(axes, seed + 100)
    tensors = {f"best.{name}": tensor for name, tensor in best.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in last.state_dict().items()}
    limits = {"max_tokens": 64, "max_prompt_tokens": 16}
    state = {
        "global_step": 7,
        "axes": list(axes),
        "sep_id": best.sep_id,
        "encoder": best.config.to_json(),
        "settings": {"seed": seed, "limits": limits},
    }
    save_checkpoint(folder, state, tensors)
    (folder / "tokenizer.json").write_text("{}")
    described = {
        "format": FORMAT,
        "ships": True,
        "evaluation_only_because_of": [],
        "licences": ["MIT"],
        "template": "hh-pair",
        "axes": sorted(axes),
        "encoder": {"sha256": "aa"},
        "settings": {"seed": seed},
    }
    (folder / "card.json").write_text(json.dumps(described | card))
    return folder


def weights_of(network: RewardNetwork) -> dict[str, torch.Tensor]:
    return dict(network.state_dict())


@pytest.mark.parametrize(("last", "shift"), [(False, 0), (True, 100)])
def test_every_weight_is_the_mean_of_the_runs(tmp_path: Path, last: bool, shift: int) -> None:
    folders = [run(tmp_path / str(seed), seed) for seed in (1, 2, 3)]
    average_checkpoints(folders, tmp_path / "out", last=last)
    members = [weights_of(member(AXES, seed + shift)) for seed in (1, 2, 3)]
    for name, tensor in weights_of(load_network(tmp_path / "out")).items():
        mean = torch.stack([each[name] for each in members]).mean(dim=0)
        assert torch.allclose(tensor, mean, atol=1e-6), name


def test_an_average_of_a_run_with_itself_is_that_run(tmp_path: Path) -> None:
    one = run(tmp_path / "one", 1)
    average_checkpoints([one, one], tmp_path / "out")
    expected = weights_of(load_network(one))
    for name, tensor in weights_of(load_network(tmp_path / "out")).items():
        assert torch.allclose(tensor, expected[name]), name


def test_the_card_holds_every_member_and_the_strictest_licence(tmp_path: Path) -> None:
    free = run(tmp_path / "a", 1)
    barred = run(
        tmp_path / "b",
        2,
        ships=False,
        licences=["CC BY-NC 4.0"],
        evaluation_only_because_of=["CC BY-NC 4.0"],
    )
    card = average_checkpoints([free, barred], tmp_path / "out")
    assert card == json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["ships"] is False
    assert card["licences"] == ["CC BY-NC 4.0", "MIT"]
    assert [member["settings"]["seed"] for member in card["members"]] == [1, 2]


def test_what_cannot_be_averaged_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    one, out = run(tmp_path / "one", 1), tmp_path / "out"
    with pytest.raises(UsageError, match="two or more checkpoints, got 1"):
        average_checkpoints([one], out)
    with pytest.raises(RewardError, match="differ in their axes"):
        average_checkpoints([one, run(tmp_path / "other", 2, ("harmless", "wit"))], out)
    with pytest.raises(RewardError, match="differ in their encoder"):
        average_checkpoints([one, run(tmp_path / "third", 2, encoder={"sha256": "bb"})], out)
    (tmp_path / "third" / "card.json").write_text("[]")
    with pytest.raises(DataError, match="not a training card"):
        average_checkpoints([one, tmp_path / "third"], out)
    with pytest.raises(DataError, match="cannot read the checkpoint"):
        average_checkpoints([one, tmp_path / "missing"], out)
    assert not out.exists()
    with pytest.raises(UsageError, match="exists"):
        average_checkpoints([one, one], one)


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    folders = [str(run(tmp_path / str(seed), seed)) for seed in (1, 2)]
    args = ["reward", "average", *folders, "--last", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.stderr
    assert "the last weights of 2 runs" in result.stdout
    again = CliRunner().invoke(app, args)
    assert again.exit_code == 2 and "exists: choose a new folder" in again.stderr
