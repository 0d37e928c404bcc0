"""The tiny models are what the tests of the engine stand on: they load, decode and remember."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import llama_cpp as llama
import numpy as np
import pytest

from tests.support.tiny_gguf import ARCHITECTURES, SPECIAL, vocabulary, write_tiny


@pytest.fixture(params=ARCHITECTURES)
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, object]]:
    llama.llama_backend_init()
    path = write_tiny(tmp_path / "tiny.gguf", request.param)
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    assert model
    yield request.param, model
    llama.llama_model_free(model)


def _last_logits(model: object, tokens: list[int]) -> np.ndarray:
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 256, 1, 1
    context = llama.llama_init_from_model(model, params)
    ids = (llama.llama_token * len(tokens))(*tokens)
    assert llama.llama_decode(context, llama.llama_batch_get_one(ids, len(tokens))) == 0
    logits = llama.llama_get_logits_ith(context, -1)
    copied = np.ctypeslib.as_array(logits, (len(vocabulary()),)).copy()
    llama.llama_free(context)
    return copied


def _tokenize(model: object, text: str, *, parse_special: bool) -> list[int]:
    vocab, raw = llama.llama_model_get_vocab(model), text.encode()
    ids = (llama.llama_token * 256)()
    n_tokens = llama.llama_tokenize(vocab, raw, len(raw), ids, 256, False, parse_special)
    return list(ids[:n_tokens])


def _piece(model: object, token: int) -> bytes:
    buffer = ctypes.create_string_buffer(64)
    vocab = llama.llama_model_get_vocab(model)
    n_bytes = llama.llama_token_to_piece(vocab, token, buffer, 64, 0, False)
    return buffer.raw[:n_bytes]


def test_it_decodes_finite_logits_that_are_neither_flat_nor_greedy(
    loaded: tuple[str, object],
) -> None:
    _, model = loaded
    logits = _last_logits(model, list(range(20))).astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    assert np.isfinite(logits).all()
    assert probabilities.max() < 0.9
    assert logits.std() > 0.5


def test_what_came_before_changes_the_next_token(loaded: tuple[str, object]) -> None:
    _, model = loaded
    one, other = _last_logits(model, [5, 6, 7]), _last_logits(model, [50, 6, 7])
    assert np.abs(one - other).max() > 0.01


def test_each_family_is_what_it_says(loaded: tuple[str, object]) -> None:
    architecture, model = loaded
    assert llama.llama_model_is_recurrent(model) == (architecture == "mamba")
    assert llama.llama_model_is_hybrid(model) == (architecture == "jamba")
    assert (llama.llama_model_n_swa(model) == 32) == (architecture == "gemma3")


def test_a_window_forgets_only_in_its_own_layers(tmp_path: Path) -> None:
    """Past the window the full layer still remembers, so both caches are exercised."""
    model = llama.llama_model_load_from_file(
        str(write_tiny(tmp_path / "tiny.gguf", "gemma3")).encode(),
        llama.llama_model_default_params(),
    )
    tail = [index % 200 for index in range(100)]
    assert np.abs(_last_logits(model, [5, *tail]) - _last_logits(model, [50, *tail])).max() > 1e-5
    llama.llama_model_free(model)


def test_a_character_spans_tokens_and_control_tokens_parse(loaded: tuple[str, object]) -> None:
    _, model = loaded
    text = " the 日本<|im_end|>"
    parsed = _tokenize(model, text, parse_special=True)
    plain = _tokenize(model, text, parse_special=False)
    assert parsed[-1] == vocabulary().index(SPECIAL[2]) and parsed[-1] not in plain
    assert b"".join(_piece(model, token) for token in plain).decode() == text
    with pytest.raises(UnicodeDecodeError):
        _piece(model, plain[2]).decode()


def test_the_seed_chooses_the_weights(tmp_path: Path) -> None:
    paths = [
        write_tiny(tmp_path / f"{i}.gguf", "llama", seed=seed) for i, seed in enumerate((0, 0, 1))
    ]
    first, same, other = (path.read_bytes() for path in paths)
    assert first == same != other
