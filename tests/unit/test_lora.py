"""LoRA adapters: what is refused, and that nothing kept for a model serves another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stars_local import compose
from stars_local.core.doubles import TableReward
from stars_local.core.errors import ModelError
from stars_local.core.records import ModelInfo
from stars_local.llama import gguf_check
from stars_local.settings import Settings
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_lora import write_tiny_lora


@pytest.fixture(name="base", scope="module")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama")


def info_and_key(base: Path, lora: Path | None) -> tuple[ModelInfo, str]:
    settings = Settings(
        model=str(base), lora=None if lora is None else str(lora), n_ctx=64, width=2, threads=1
    )
    with compose.open_language_model(settings) as model:
        models = compose.Models(model, TableReward({}))
        return model.info, compose.calibration_key(settings, models).file_name


def test_calibrations_and_caches_tell_adapters_apart(base: Path, tmp_path: Path) -> None:
    loras = [write_tiny_lora(tmp_path / f"{seed}.gguf", seed=seed) for seed in (0, 1)]
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(loras[0].read_bytes())
    (plain, *others), keys = zip(
        *(info_and_key(base, lora) for lora in (None, *loras, copy)), strict=True
    )
    assert plain.weights_sha256 == plain.sha256
    assert json.loads(plain.adapters) == {}
    assert {other.sha256 for other in others} == {plain.sha256}
    assert len({plain.weights_sha256, *(other.weights_sha256 for other in others)}) == 3
    assert len(set(keys)) == 3
    assert keys[1] == keys[3], "an adapter is known by its content"


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-64])
    return path


def garbled(path: Path) -> Path:
    """An adapter of a tensor that the model does not have."""
    path.write_bytes(path.read_bytes().replace(b"blk.0.attn_q", b"blk.9.attn_q"))
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path, "does not exist"),
        (lambda path: write_tiny(path, "llama"), "not a LoRA adapter"),
        (lambda path: write_tiny_lora(path, architecture="gemma3"), "of a gemma3 model"),
        (lambda path: cut(write_tiny_lora(path)), "cut short"),
        (lambda path: garbled(write_tiny_lora(path)), "is refused by llama.cpp"),
    ],
)
def test_a_wrong_file_is_named_and_refused(
    base: Path, tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    path = tmp_path / "lora.gguf"
    make(path)
    with pytest.raises(ModelError, match=words) as found:
        info_and_key(base, path)
    assert "lora.gguf" in str(found.value)


def test_an_adapter_is_tried_once_and_again_over_another_model(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, str | None]] = []

    def probe(_child: object, path: Path, _s: float, _n: int, lora: Path | None = None) -> None:
        tried.append((path.name, None if lora is None else lora.name))

    monkeypatch.setattr(gguf_check, "probe_with", probe)
    lora = write_tiny_lora(tmp_path / "lora.gguf")
    other = write_tiny(tmp_path / "other.gguf", "llama", seed=5)
    for _ in range(2):
        for model in (base, other):
            gguf_check.probe_in_child(model, cache_folder=tmp_path / "cache", lora=lora)
    gguf_check.probe_in_child(base, cache_folder=tmp_path / "cache")
    assert tried == [("tiny.gguf", "lora.gguf"), ("other.gguf", "lora.gguf"), ("tiny.gguf", None)]
