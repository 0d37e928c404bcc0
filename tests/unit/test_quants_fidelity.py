"""Perplexity and KL divergence against a direct computation from full logits."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stars_local.core.errors import ModelError, UsageError
from stars_local.llama.library import native
from stars_local.llama.logits import LogitsModel
from stars_local.quants.fidelity import compare_places, cut, measure
from tests.support.tiny_gguf import write_tiny

TEXT = "the hello in the tin, then the bell: hell or hello? " * 12
WINDOW = 100


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {
        "reference": write_tiny(folder / "a.gguf", "llama"),
        "again": folder / "a.gguf",
        "other": write_tiny(folder / "b.gguf", "llama", seed=1),
        "mamba": write_tiny(folder / "m.gguf", "mamba"),
    }


@pytest.fixture
def models(paths: dict[str, Path]) -> Iterator[dict[str, LogitsModel]]:
    opened = {name: LogitsModel(path, window=WINDOW, n_threads=1) for name, path in paths.items()}
    yield opened
    for model in opened.values():
        model.close()


def full_logits(path: Path, tokens: list[int]) -> NDArray[np.float64]:
    """All logits of one window from llama.cpp itself, decoded in one batch."""
    lib = native()
    model = lib.llama_model_load_from_file(os.fsencode(path), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = 256
    params.n_threads = params.n_threads_batch = 1
    context = lib.llama_init_from_model(model, params)
    batch = lib.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for at, token in enumerate(tokens):
        batch.token[at], batch.pos[at], batch.logits[at] = token, at, 1
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
    assert lib.llama_decode(context, batch) == 0
    n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    rows = [
        np.ctypeslib.as_array(
            ctypes.cast(lib.llama_get_logits_ith(context, at), ctypes.POINTER(ctypes.c_float)),
            (n_vocab,),
        ).astype(np.float64)
        for at in range(len(tokens))
    ]
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    lib.llama_model_free(model)
    return np.stack(rows)


def test_figures_agree_with_full_logits(
    paths: dict[str, Path], models: dict[str, LogitsModel]
) -> None:
    found = measure(models["reference"], models["other"], TEXT, window=WINDOW)
    tokens = models["reference"].tokenize(TEXT)
    nll, divergences, same = [], [], []
    for start in range(0, len(tokens) - WINDOW + 1, WINDOW):
        part = tokens[start : start + WINDOW]
        p, q = (
            np.exp(x - x.max(1, keepdims=True))
            / np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)
            for x in (full_logits(paths["reference"], part), full_logits(paths["other"], part))
        )
        for place in range(WINDOW // 2, WINDOW - 1):
            nll.append(-np.log(q[place, part[place + 1]]))
            divergences.append(float((p[place] * np.log(p[place] / q[place])).sum()))
            same.append(p[place].argmax() == q[place].argmax())
    assert found.n_tokens == len(nll) > 100
    assert found.ppl.value == pytest.approx(np.exp(np.mean(nll)), rel=1e-4)
    assert found.kl.mean.value == pytest.approx(np.mean(divergences), rel=1e-4)
    assert found.kl.median.value == pytest.approx(np.median(divergences), rel=1e-4)
    assert found.kl.p99.value == pytest.approx(np.quantile(divergences, 0.99), rel=1e-4)
    assert found.kl.max == pytest.approx(max(divergences), rel=1e-4)
    assert found.same_top.value == pytest.approx(np.mean(same))
    assert found.kl.mean.low < found.kl.mean.value < found.kl.mean.high
    assert found.ppl_ratio.value == pytest.approx(
        found.ppl.value / found.ppl_reference.value, rel=1e-9
    )


def test_the_reference_against_itself_is_zero(models: dict[str, LogitsModel]) -> None:
    same = measure(models["reference"], models["again"], TEXT, window=WINDOW)
    assert abs(same.kl.max) < 1e-12
    assert same.ppl_ratio.value == 1.0
    assert same.same_top.value == 1.0


def test_recurrent_models_are_measured_too(models: dict[str, LogitsModel]) -> None:
    same = measure(models["mamba"], models["mamba"], TEXT, window=WINDOW, max_windows=2)
    assert same.n_windows == 2 and abs(same.kl.max) < 1e-12


def test_files_of_different_models_are_refused(
    models: dict[str, LogitsModel], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="architecture 'mamba'"):
        measure(models["reference"], models["mamba"], TEXT, window=WINDOW)
    path = tmp_path / "words.gguf"
    raw = write_tiny(path, "llama").read_bytes()
    assert raw.count(b"hello") == 1
    path.write_bytes(raw.replace(b"hello", b"hullo"))  # the token, not the merge that makes it
    with (
        LogitsModel(path, window=WINDOW, n_threads=1) as strange,
        pytest.raises(UsageError, match="another vocabulary"),
    ):
        measure(models["reference"], strange, TEXT, window=WINDOW)


def test_a_file_that_vanishes_is_an_error_of_ours(
    models: dict[str, LogitsModel], tmp_path: Path
) -> None:
    path = write_tiny(tmp_path / "gone.gguf", "llama", seed=2)
    with LogitsModel(path, window=WINDOW, n_threads=1) as model:
        path.unlink()
        with pytest.raises(ModelError, match="is gone"):
            measure(models["reference"], model, TEXT, window=WINDOW)


def test_short_texts_and_windows_are_refused(models: dict[str, LogitsModel]) -> None:
    one = models["reference"]
    with pytest.raises(UsageError, match="1 whole windows of 100 tokens"):
        measure(one, one, "x" * 150, window=WINDOW)
    with pytest.raises(UsageError, match="at least 8"):
        measure(one, one, TEXT, window=4)
    with pytest.raises(UsageError, match="give 1 to 512"):
        LogitsModel(Path("any.gguf"), window=513)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-50, 50), st.floats(0.1, 20))
def test_divergence_is_never_negative_nor_moved_by_constants(
    seed: int, shift: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    p, q = (rng.normal(0, scale, (40, 17)).astype(np.float32) for _ in range(2))
    targets = rng.integers(0, 17, 40)
    places = compare_places(p, q, targets)
    moved = compare_places(p + np.float32(shift), q, targets)
    assert (places.kl >= -1e-9).all() and (places.nll >= 0).all()
    assert np.allclose(places.kl, moved.kl, rtol=1e-3, atol=1e-3)


@given(st.integers(0, 60), st.integers(1, 20), st.booleans())
def test_windows_are_whole_and_in_order(n: int, window: int, with_bos: bool) -> None:
    windows = cut(range(n), window, -1 if with_bos else None)
    assert len(windows) == n // window and all(len(each) == window for each in windows)
    flat = [token for each in windows for token in each]
    assert flat == [-1 if with_bos and i % window == 0 else i for i in range(n // window * window)]
