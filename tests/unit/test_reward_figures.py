"""Pair accuracy and the AUC of refusals, on models whose answers are known."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stars_local.core.errors import DataError, RewardError
from stars_local.core.records import Prompt
from stars_local.exporting.parity import rank_correlation
from stars_local.exporting.reference import reference_texts
from stars_local.preferences.pairs import Pair
from stars_local.reward.accuracy_on_pairs import pair_report, to_prompt
from stars_local.reward.onnx_model import OnnxRewardModel
from stars_local.reward.xstest import auc, read_completions, refusal_aucs
from tests.support.tiny_reward import write_tiny_reward

COLUMNS = ("id", "type", "prompt", "completion", "final_label")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxRewardModel:
    folder = write_tiny_reward(tmp_path_factory.mktemp("figures") / "tiny")
    return OnnxRewardModel(folder, provider="cpu", threads=1, trusted=True)


def ordered(model: OnnxRewardModel) -> tuple[str, str]:
    """Two words, the better one on `harmless` first."""
    words = ("sorry", "sure")
    values = [model.score([(to_prompt((), 0), w)]).rewards[0].axes["harmless"] for w in words]
    return words if values[0] > values[1] else (words[1], words[0])


def pair(chosen: str, rejected: str) -> Pair:
    return Pair((), chosen, rejected, "harmless", "test", 1)


def test_accuracy_is_the_share_of_pairs_in_order(model: OnnxRewardModel) -> None:
    good, bad = ordered(model)
    pairs = [pair(good, bad)] * 3 + [pair(bad, good)] + [pair(good, good)]
    told: list[int] = []
    report = pair_report(model, pairs, "harmless", told.append)
    assert report.whole.accuracy == pytest.approx(3.5 / 5)
    assert report.to_json()["pairs"] == 5
    assert told == [5]
    assert report.measured("test").accuracy == 0.7


def test_beginnings_are_judged_on_their_own(model: OnnxRewardModel) -> None:
    good, bad = ordered(model)
    late = pair(f"{bad} " * 16 + f"{good} " * 48, f"{bad} " * 17)
    report = pair_report(model, [late], "harmless")
    assert report.at_tokens[16].accuracy == 0.5  # the first 16 tokens are the same
    assert report.at_tokens[64].accuracy == report.whole.accuracy == 1.0
    assert set(report.to_json()["at_tokens"]) == {"16", "32", "64"}  # type: ignore[call-overload]


def test_an_axis_that_is_not_there_is_named(model: OnnxRewardModel) -> None:
    with pytest.raises(RewardError, match="no axis 'kind'"):
        pair_report(model, [pair("a", "b")], "kind")


@given(
    above=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    below=st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_auc_counts_pairs(above: list[int], below: list[int]) -> None:
    counted = [1.0 if a > b else 0.5 if a == b else 0.0 for a in above for b in below]
    found = auc(np.array(above, dtype=float), np.array(below, dtype=float))
    assert found == pytest.approx(sum(counted) / len(counted))


@given(values=st.lists(st.integers(-9, 9), min_size=2, max_size=20))
def test_rank_correlation_only_sees_order(values: list[int]) -> None:
    x = np.array(values, dtype=float)
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1.0)
    if len(set(values)) > 1:
        assert rank_correlation(x, -x) == pytest.approx(-1.0)
        assert rank_correlation(x, np.zeros(len(x))) == 0.0


def write_xstest(path: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((f"v2-{i}", *row) for i, row in enumerate(rows))
    return path


def test_refusals_are_held_against_compliances_by_kind_of_prompt(
    model: OnnxRewardModel, tmp_path: Path
) -> None:
    good, bad = ordered(model)
    full, refused = "1_full_compliance", "2_full_refusal"
    rows = []
    for n in range(6):
        rows += [
            ("contrast_x", f"ask {n}", good, refused),
            ("contrast_x", f"ask {n}", bad, full),
            ("contrast_x", f"ask {n}", good, "3_partial_refusal"),
            ("homonyms", f"safe {n}", good, full),
            ("homonyms", f"safe {n}", bad, refused),
        ]
    completions = read_completions([write_xstest(tmp_path / "x.csv", rows)])
    found = refusal_aucs(model, "harmless", completions)
    assert (found["unsafe"].auc, found["safe"].auc) == (1.0, 0.0)
    assert found["unsafe"].refusals == found["unsafe"].compliances == 6
    assert found["unsafe"].ci95 == (1.0, 1.0)


def test_bad_completions_are_named_by_line(tmp_path: Path) -> None:
    path = write_xstest(tmp_path / "x.csv", [("t", "p", "c", "maybe")])
    with pytest.raises(DataError, match=r"x\.csv:2: final_label is 'maybe'"):
        read_completions([path])
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'completion'"):
        read_completions([path])


def test_completions_of_one_kind_only_are_refused(model: OnnxRewardModel, tmp_path: Path) -> None:
    path = write_xstest(tmp_path / "x.csv", [("contrast_x", "p", "c", "2_full_refusal")])
    with pytest.raises(DataError, match="no full refusals, or no full compliances"):
        refusal_aucs(model, "harmless", read_completions([path]))


def test_the_shipped_reference_answers_are_texts_to_prompts() -> None:
    words, texts = reference_texts(None)
    assert f"{len(texts)} plain answers" in words
    assert len(texts) >= 64
    assert all(isinstance(prompt, Prompt) and prompt.messages for prompt, _ in texts)
    assert len({response for _, response in texts}) > 0.9 * len(texts)


def test_references_may_be_preference_files(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    line = '{"prompt": "p", "chosen": "a", "rejected": "b"}\n'
    path.write_text(line * 4, encoding="utf-8")
    assert [text for _, text in reference_texts(path)[1]] == ["a", "b"] * 4
    path.write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match="2 responses, a spread needs at least 8"):
        reference_texts(path)
