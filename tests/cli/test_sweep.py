"""`sweep` over the doubles: what is varied, and at whose thresholds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stars_local import arms, compose
from stars_local.calibration import store
from stars_local.calibration.records import Calibration, Measured, write_calibration
from stars_local.cli.app import app
from stars_local.core.doubles import TableReward
from stars_local.evals import summary
from stars_local.llama.speed import StepCosts
from tests.cli.test_generate import CALIBRATED, language, use

SHORT = ["--segment-size", "3", "--max-new-tokens", "6", "--seed", "0", "--cohort", "2"]
TARGETS = {3: 2.0, 8: 3.0, 16: 4.0, 32: 5.0, 64: 6.0}


@pytest.fixture(autouse=True)
def _doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrations of every size in a folder of the test's; each has another target. No summary:
    nothing here looks at its intervals."""
    model, reward = use(monkeypatch, language()), TableReward({})
    monkeypatch.setattr(summary, "summarise", lambda *_, **__: {"arms": {}, "pairs": []})
    monkeypatch.setattr(arms, "clear", lambda models: None)
    monkeypatch.setattr(compose, "measured_steps", lambda *_, **__: StepCosts({1: 0.01, 2: 0.0125}))
    monkeypatch.setattr(store, "calibration_folders", lambda: (tmp_path / "calibrations",))
    measured = Measured(2.0, (1.5, 2.5), 0.0, 300, 900)
    for size, target in TARGETS.items():
        key = store.calibration_key(model.info, reward.info, None, size)
        found = Calibration(
            key=key,
            alpha=0.8,
            beta=0.2,
            reward_threshold=target,
            quantiles=(0.5, 1.0),
            spread=2.0,
            within_spread=1.0,
            max_new_tokens=96,
            max_attempts=20,
            wanted="2 attempts",
            quick=False,
            predicted=measured,
            checked=replace(measured, attempts=3.0),
            by_position=(),
            made={},
        )
        write_calibration(found, tmp_path / "calibrations" / key.file_name)


def sweep(folder: Path, *args: str) -> Any:
    prompts = folder / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    given = ["sweep", "--prompts", str(prompts), "--out", str(folder / "run"), *SHORT, *args]
    return CliRunner().invoke(app, given)


def drawn(folder: Path) -> dict[str, dict[str, Any]]:
    """The arms of the run with their parameters."""
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    arms: dict[str, dict[str, Any]] = manifest["run"]["arms"]
    return arms


def test_by_itself_it_varies_all_that_moves_the_threshold_one_at_a_time(tmp_path: Path) -> None:
    result = sweep(tmp_path)
    assert result.exit_code == 0, result.stderr
    found = drawn(tmp_path)
    assert set(found) == {
        "stars",
        *(f"stars:segment_size={size}" for size in (8, 16, 32, 64)),
        *(f"stars:schedule={name}" for name in ("fixed", "decay", "quantile")),
        *(f"stars:reward_threshold={target}" for target in ("1.5", "2.5")),
        *(f"stars:alpha={alpha}" for alpha in ("0.1", "0.5", "0.9")),
        *(f"stars:beta={beta}" for beta in ("0.1", "0.4")),
    }
    base = found["stars"]
    assert (base["alpha"], base["beta"], base["reward_threshold"]) == (0.8, 0.2, 2.0)
    for name, params in found.items():
        changed = {key for key in params if params[key] != base[key]} - {"method"}
        assert changed == {name.partition(":")[2].partition("=")[0]} - {""}
    told = " ".join(result.stderr.split())
    assert "the thresholds for segments of 3 tokens serve every segment size" in told
    assert "reward_threshold 2," in told and "--recalibrate" in told


def test_only_arms_of_the_calibrated_size_are_reckoned_at_its_attempts(tmp_path: Path) -> None:
    result = sweep(tmp_path, "--vary", "segment_size=8")
    rows = [line.split() for line in result.stderr.splitlines() if line.startswith("stars")]
    tokens = {row[0]: row[2] for row in rows if len(row) > 3}
    assert tokens["stars"] == "36", "two answers of six tokens at three attempts"
    assert tokens["stars:segment_size=8"] == "240", "at most twenty attempts"


def test_each_size_can_have_its_own_thresholds(tmp_path: Path) -> None:
    result = sweep(tmp_path, "--vary", "segment_size=3,8,16", "--recalibrate")
    assert result.exit_code == 0, result.stderr
    found = drawn(tmp_path)
    assert [params["reward_threshold"] for params in found.values()] == [2.0, 3.0, 4.0]
    assert len({params["thresholds"] for params in found.values()}) == 3
    assert "serve every segment size" not in result.stderr


def test_a_value_that_the_base_has_is_the_base(tmp_path: Path) -> None:
    given = ["--vary", "segment_size=3,4", "--vary", "alpha=0.80,1", "--vary", "schedule=ramp"]
    assert sweep(tmp_path, *given).exit_code == 0
    assert set(drawn(tmp_path)) == {"stars", "stars:segment_size=4", "stars:alpha=1"}


def test_thresholds_by_hand_have_no_quantiles(tmp_path: Path) -> None:
    result = sweep(tmp_path, *CALIBRATED)
    assert result.exit_code == 0, result.stderr
    found = drawn(tmp_path)
    assert "stars:schedule=quantile" not in found
    assert {"stars:reward_threshold=1.75", "stars:reward_threshold=2.25"} <= set(found)


def test_a_spread_of_the_base_serves_methods_that_need_one(tmp_path: Path) -> None:
    result = sweep(tmp_path, "--method", "stopping")
    assert result.exit_code == 0, result.stderr
    found = drawn(tmp_path)
    assert {name.partition("=")[0] for name in found} == {
        "stopping",
        "stopping:segment_size",
        "stopping:budget",
    }
    assert {params["spread"] for params in found.values()} == {1.0}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--method", "vanilla"], "nothing that is varied by itself"),
        (["--vary", "alpha"], "give NAME=VALUE"),
        (["--vary", "alhpa=1"], "no parameter 'alhpa'"),
        (["--vary", "alpha=2"], "alpha"),
        (["--method", "stopping", "--vary", "beta=1"], "does not look at beta"),
    ],
)
def test_what_cannot_be_varied_is_refused_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], words: str
) -> None:
    monkeypatch.setattr(compose, "open_language_model", lambda *_, **__: pytest.fail("opened"))
    result = sweep(tmp_path, *args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (tmp_path / "run").exists()
