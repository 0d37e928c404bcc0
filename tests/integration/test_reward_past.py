"""Decoders that go on from past keys and values score as the whole text does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stars_local.core.errors import RewardError, UsageError
from stars_local.core.records import Message, Prompt
from stars_local.exporting import export
from stars_local.exporting.export import export_reward
from stars_local.exporting.export_manifest import ExportOptions
from stars_local.reward.manifest import Style, read_manifest, write_manifest
from stars_local.reward.onnx_model import OnnxRewardModel
from tests.support.tiny_reward import WORDS
from tests.support.tiny_sources import write_tiny_source

pytestmark = pytest.mark.model

ASK = Prompt("ask", (Message("user", "help kill ?"),))
ALSO = Prompt("also", (Message("user", "help yes no"),))
torch.set_num_threads(1)
_DRAWN = np.random.default_rng(2)
REFERENCE = (
    "random words",
    [(ASK, " ".join(_DRAWN.choice(WORDS, size=n % 17 + 1))) for n in range(60)],
)
NAMES = ("Llama", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3Text")
words = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


def made(folder: Path, name: str, **options: object) -> OnnxRewardModel:
    source = write_tiny_source(folder / "source", f"{name}ForSequenceClassification")
    given_ = ExportOptions("tiny", style=Style.CHATML, **options)  # type: ignore[arg-type]
    export_reward(source, folder / "out", given_, REFERENCE, {})
    return OnnxRewardModel(folder / "out", provider="cpu", threads=1, trusted=True)


@pytest.fixture(scope="module", params=NAMES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> OnnxRewardModel:
    name: str = request.param
    found = made(
        tmp_path_factory.mktemp(name), name, precision="int8" if name == "Llama" else "fp32"
    )
    assert found.manifest.past
    return found


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(words, min_size=1, max_size=4), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_segments_of_any_length_score_as_whole_texts(
    model: OnnxRewardModel, rounds: list[list[str]], shuffled: object
) -> None:
    """Neighbours, another prompt's texts and the order change nothing."""
    so_far = ""
    for attempts in rounds:
        items = [(ASK, so_far + " " + attempt) for attempt in attempts]
        items += [(ALSO, attempt) for attempt in attempts]
        shuffled.shuffle(items)  # type: ignore[attr-defined]
        rewards = [reward.value for reward in model.score(items).rewards]
        alone = [model.run_batch([model.encode(*item)])[0, 0] for item in items]
        np.testing.assert_allclose(rewards, alone, rtol=0, atol=1e-4)
        so_far += " " + attempts[0]


def test_a_manifest_that_does_not_fit_the_network_is_refused(tmp_path: Path) -> None:
    made(tmp_path, "Llama")
    write_manifest(tmp_path / "out", replace(read_manifest(tmp_path / "out"), past=False))
    with pytest.raises(RewardError, match="past false does not fit"):
        OnnxRewardModel(tmp_path / "out", provider="cpu", trusted=True)


def test_past_can_be_declined_and_both_score_alike(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    left, right = made(tmp_path / "a", "Qwen2"), made(tmp_path / "b", "Qwen2", past=False)
    assert (left.manifest.past, right.manifest.past) == (True, False)
    items = [(ASK, text) for _, text in REFERENCE[1][:10]]
    a, b = ([reward.value for reward in each.score(items).rewards] for each in (left, right))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_where_past_strays_the_export_goes_without_or_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "past_drift", lambda *_: 1.0)
    assert not made(tmp_path, "Llama").manifest.past
    with pytest.raises(RewardError, match="strays from torch by 1,"):
        export_reward(
            tmp_path / "source", tmp_path / "out", ExportOptions("tiny", past=True), REFERENCE, {}
        )


def test_an_encoder_takes_no_past(tmp_path: Path) -> None:
    source = write_tiny_source(tmp_path / "source", "BertForSequenceClassification")
    with pytest.raises(UsageError, match="for decoders"):
        export_reward(source, tmp_path / "out", ExportOptions("t", past=True), REFERENCE, {})
