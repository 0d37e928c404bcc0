"""Every command that opens a model of the models folder refuses another file in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stars_local.catalog.folder import models_folder
from stars_local.catalog.importing import import_model
from stars_local.cli.app import app
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward

OTHER = "elsewhere.gguf"


@pytest.fixture(name="replaced")
def _replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STARS_LOCAL_MODELS_DIR", str(tmp_path / "models"))
    source = write_tiny(tmp_path / "tiny.gguf", "llama")
    (found,) = import_model(source, models_folder(), lambda *_: None, copy=True)
    write_tiny(tmp_path / OTHER, "llama", seed=1)
    write_tiny(found, "llama", seed=2)
    write_tiny_reward(tmp_path / "reward")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (tmp_path / "prompts.txt").write_text("Why?\n")
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.parametrize(
    "command",
    [
        "generate --model MODEL --method vanilla hello",
        "quants make MODEL --types Q8_0 --out made",
        f"quants compare MODEL {OTHER} --reward reward --out run",
        f"quants compare {OTHER} MODEL --reward reward --out run",
        f"quants advise {OTHER} MODEL",
        "bench --model MODEL --only rollback",
        f"eval --model {OTHER} --reward reward --prompts prompts.txt --out run --method vanilla "
        "--judge llm:MODEL",
        f"eval --model {OTHER} --reward reward --prompts prompts.txt --out run --method vanilla "
        "--judge perplexity:MODEL",
        "reward teach MODEL --data harmless=pairs.jsonl,licence=MIT --out taught.jsonl",
    ],
)
def test_a_replaced_model_is_refused(replaced: Path, command: str, tmp_path: Path) -> None:
    words = [part.replace("MODEL", str(replaced)) for part in command.split()]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1, result.stderr
    assert "is not the file that came here: run 'stars-local models verify'" in result.stderr
    assert not any((tmp_path / name).exists() for name in ("made", "taught.jsonl"))
