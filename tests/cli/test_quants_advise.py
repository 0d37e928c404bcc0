"""`quants advise` over tiny files, timed in earnest once and by doubles for the rest."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from stars_local.cli import quants_advise
from stars_local.cli.app import app
from stars_local.core.errors import ModelError
from stars_local.quants.timing import N_ANSWER, Speed
from tests.support.tiny_gguf import write_tiny


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("advise") / "tiny.F32.gguf", "llama")


def advise(*args: object) -> Any:
    return CliRunner().invoke(app, ["quants", "advise", *map(str, args)])


def by_name(seconds: dict[str, float], broken: str = "") -> Any:
    """In the place of `_measure`: what a file takes by its name's end."""

    def measure(path: Path, width: int, cohort: int, *_: int) -> Speed:
        quant = path.stem.split(".")[-1]
        if quant == broken:
            raise ModelError(f"{path} is gone: put it back")
        return Speed(width, cohort, 1e9, 100.0, N_ANSWER * width * cohort / seconds[quant])

    return measure


def test_types_are_made_timed_and_one_is_advised(source: Path, tmp_path: Path) -> None:
    result = advise(
        source, "--types", "Q8_0", "--out", tmp_path, "--threads", 1, "--width", 2, "--json"
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [row["quant"] for row in found["files"]] == ["F32", "Q8_0"]
    for row in found["files"]:
        assert row["n_runs"] >= 1 and row["width"] == 2 and row["prefill_tokens_per_s"] > 0
        times = row["answer_s"]
        assert 0 < times["min"] <= times["median"] <= times["max"]
    assert found["advice"].startswith("run tiny.")
    assert "timing files" in result.stderr


def test_the_line_says_which_and_why(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quants_advise, "_measure", by_name({"F32": 3.0, "Q8_0": 1.0}))
    result = advise(source, "--types", "Q8_0", "--out", tmp_path, "--cohort", 8)
    assert result.exit_code == 0, result.stderr
    *rows, said = result.stdout.splitlines()
    assert len(rows) == 2 and "answer 3.00 s" in rows[0]
    assert said.startswith("run tiny.Q8_0: 1.00 s") and "3.0 times tiny.F32" in said
    assert "4 attempts of 8 prompts" in said


def test_a_file_that_vanishes_fails_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quants_advise, "_measure", by_name({"F32": 3.0}, broken="Q8_0"))
    result = advise(source, "--types", "Q8_0", "--out", tmp_path)
    assert result.exit_code == 1
    assert "run tiny.F32" in result.stdout and "failed:" in result.stdout
    assert "1 of 2 files failed" in result.stderr and "put it back" in result.stderr


def test_files_for_which_there_was_no_time_are_named(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spent = []

    def measure(*_: object) -> Speed:
        spent.append(40.0)
        return Speed(4, 1, 1e9, 100.0, 100.0)

    monkeypatch.setattr(quants_advise, "_measure", measure)
    monkeypatch.setattr(quants_advise, "time", SimpleNamespace(monotonic=lambda: sum(spent)))
    result = advise(source, "--types", "Q8_0", "--out", tmp_path, "--seconds", 60)
    assert result.exit_code == 0, result.stderr
    assert "time was up before tiny.Q8_0" in result.stderr
    assert "not timed" in result.stdout and "run tiny.F32" in result.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--types", "Q8_0"), "--out"),
        (("--out", "x"), "--types"),
        (("--cohort", "80", "--width", "8"), "720 sequences"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_timed(
    source: Path, args: tuple[str, ...], said: str
) -> None:
    result = advise(source, *args)
    assert result.exit_code == 2
    assert said in result.stderr and result.stdout == ""


def test_files_of_two_models_are_refused(source: Path, tmp_path: Path) -> None:
    result = advise(source, write_tiny(tmp_path / "other.gguf", "mamba"))
    assert result.exit_code == 2 and "architecture 'mamba'" in result.stderr


def test_a_missing_file_is_an_error(source: Path, tmp_path: Path) -> None:
    result = advise(source, tmp_path / "none.gguf")
    assert result.exit_code == 1 and "none.gguf" in result.stderr
