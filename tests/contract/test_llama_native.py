"""The border to the native library: quiet, quoting, and translating what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stars_local.core.errors import ModelError
from stars_local.llama.batch import Batch
from stars_local.llama.engine import LlamaModel
from stars_local.llama.library import build, forget_log, last_words, native
from stars_local.llama.model import quant_name
from tests.support.language_models import tiny_path


def test_loading_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with LlamaModel(tiny_path("llama"), n_threads=1) as model:
        assert model.info.n_vocab > 0
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_last_words_are_kept_on_one_line(tmp_path: Path) -> None:
    forget_log()
    assert last_words() == ""
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_path("llama").read_bytes()[:2000])
    params = native().llama_model_default_params()
    assert not native().llama_model_load_from_file(os.fsencode(damaged), params)
    assert last_words()
    assert "\n" not in last_words()
    forget_log()
    assert last_words() == ""


def test_a_refused_batch_is_a_model_error_with_the_reason() -> None:
    with LlamaModel(tiny_path("llama"), n_threads=1) as model:
        batch = Batch(4)
        batch.put(0, 1, 7, 0, logits=True)  # position 7 of an empty sequence
        batch.put(1, 1, 3, 0, logits=True)  # and then back
        with pytest.raises(ModelError, match="llama_decode refused a batch of 2 tokens"):
            batch.decode(model._native.context, 2)


def test_the_build_names_version_and_instruction_sets() -> None:
    assert build().startswith("llama-cpp-python 0.")
    assert "llama.cpp" in build()


@pytest.mark.parametrize(
    ("file_type", "name"),
    [("15", "Q4_K_M"), ("3", "Q4_1"), ("1", "F16"), ("0", "F32"), (None, "unknown")],
)
def test_types_are_named_as_gguf_spells_them(file_type: str | None, name: str) -> None:
    assert quant_name(file_type) == name


def test_unknown_types_are_named_by_number() -> None:
    assert quant_name("9999") == "file type 9999"
    assert quant_name("x") == "unknown"


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all\n" * 50])
def test_files_that_are_no_models_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        LlamaModel(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
