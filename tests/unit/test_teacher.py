"""A teacher finds what decides pairs, and says how sure it is of pairs it never saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from stars_local.cli.app import app
from stars_local.core.errors import DataError, ModelError
from stars_local.llama.states import StatesModel
from stars_local.preferences.pairs import Pair, read_pairs
from stars_local.training.teacher import features, fit_teacher
from tests.support.tiny_gguf import write_tiny

WIDTH = 6


class Letters:
    """A text's tokens are its characters; the state of one is a fixed random vector."""

    def tokenize(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def states(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        table = np.random.default_rng(0).normal(size=(256, WIDTH)).astype(np.float32)
        return table[[token % 256 for token in tokens]]


def pairs(n: int, wrong: float = 0.0, seed: int = 0) -> list[Pair]:
    """Responses of which the one with more x is better, but for a share of wrong labels."""
    dice = np.random.default_rng(seed)
    made = []
    for i in range(n):
        good, bad = (
            "x" * 6 + "y" * int(dice.integers(1, 4)),
            "y" * 6 + "x" * int(dice.integers(1, 4)),
        )
        if dice.random() < wrong:
            good, bad = bad, good
        made.append(Pair((("user", f"question {i}"),), good, bad, "axis", "made", i))
    return made


def taught(made: list[Pair]) -> tuple[list[tuple[NDArray[np.float64], NDArray[np.float64]]], float]:
    found = [features(Letters(), p, max_prompt_tokens=9, max_response_tokens=9) for p in made]
    return found, fit_teacher(made, found, seed=0).accuracy.accuracy


def test_what_decides_the_pairs_is_found() -> None:
    made = pairs(60)
    found, accuracy = taught(made)
    teacher = fit_teacher(made, found, seed=0)
    assert accuracy == 1.0
    better, worse = found[0]
    assert teacher.margin(better, worse) > 0
    assert teacher.margin(better, worse) == pytest.approx(-teacher.margin(worse, better))


def test_random_labels_leave_it_unsure() -> None:
    made = pairs(200, wrong=0.5)
    found, accuracy = taught(made)
    margins = fit_teacher(made, found, seed=0).margins
    assert 0.35 < accuracy < 0.65
    assert np.abs(margins).mean() < 0.5


@pytest.mark.parametrize("wrong", [0.1, 0.25])
def test_it_is_as_sure_as_it_is_right(wrong: float) -> None:
    made = pairs(600, wrong)
    found, _ = taught(made)
    margins = fit_teacher(made, found, seed=0).margins
    says = 1.0 / (1.0 + np.exp(-np.abs(margins)))
    assert says.mean() == pytest.approx(1.0 - wrong, abs=0.06)


def test_a_prompt_that_stands_twice_is_in_one_fold() -> None:
    made = pairs(5) * 2
    found = [features(Letters(), p, max_prompt_tokens=9, max_response_tokens=9) for p in made]
    margins = fit_teacher(made, found, seed=0).margins
    assert margins[:5] == pytest.approx(margins[5:])
    with pytest.raises(DataError, match="4 prompts"):
        fit_teacher(made[:4], found[:4], seed=0)


def test_responses_keep_their_first_tokens_and_prompts_their_last() -> None:
    pair = Pair((("user", "abcdef"),), "xyz", "xyq", "axis", "made", 1)
    short = features(Letters(), pair, max_prompt_tokens=3, max_response_tokens=3)
    assert short[0] == pytest.approx(short[1])  # " xy" and " xy"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama")


def test_states_depend_on_what_came_before_and_on_nothing_after(tiny: Path) -> None:
    with StatesModel(tiny, window=16, n_threads=1) as model:
        tokens = model.tokenize("abcdef")
        whole = model.states(tokens).copy()
        assert whole.shape[0] == len(tokens) and np.isfinite(whole).all()
        assert model.states(tokens[:3]) == pytest.approx(whole[:3], abs=1e-4)
        assert model.states(tokens) == pytest.approx(whole, abs=1e-6)
        assert not np.allclose(model.states(tokens[1:])[0], whole[1], atol=1e-4)
        with pytest.raises(ModelError, match="1 to 16"):
            model.states([1] * 17)
        with pytest.raises(ModelError, match="1 to 16"):
            model.states([])


def test_the_command_writes_pairs_that_train_reads(tiny: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(8)]
    (tmp_path / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    others = [{"prompt": f"o{i}", "chosen": "yes", "rejected": "no"} for i in range(3)]
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "yes 7"}) + "\n")
    out = tmp_path / "taught.jsonl"
    args = ["reward", "teach", str(tiny), "--out", str(out), "--threads", "1"]
    args += ["--data", f"harmless={tmp_path}/ranked.jsonl,licence=MIT"]
    args += ["--unlabelled", f"harmless={tmp_path}/others.jsonl,licence=MIT"]
    args += ["--exclude", f"{tmp_path}/test.jsonl"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert "of 7 pairs" in result.stdout and "3 that nobody ranked" in result.stdout
    found = list(read_pairs(out, "harmless"))
    assert len(found) == 10
    assert all(pair.margin is not None and pair.margin >= 0 for pair in found)
    card = json.loads((tmp_path / "taught.jsonl.card.json").read_text())
    assert card["agreement_with_people"]["pairs"] == 7
    assert card["sources"][0]["pairs_in_test_files_dropped"] == 1
    again = CliRunner().invoke(
        app, [*args[:5], "--data", "a=x,licence=M", "--data", "b=y,licence=M"]
    )
    assert again.exit_code == 2 and "one at a time" in again.stderr
