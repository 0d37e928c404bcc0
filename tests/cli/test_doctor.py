"""`stars-local doctor`: findings, remedies, exit codes, and parts that die."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stars_local.cli.app import app
from stars_local.cli.doctor import page
from stars_local.doctor import checks, examination, trials
from stars_local.doctor.checks import Check
from stars_local.doctor.trials import TrialFailed

GOOD = Check("cpu", "good", "a machine")
WARNING = Check("gpu", "warning", "no driver \x1b[31m", "install it " * 12)
FAILURE = Check("model", "failure", "not here", "stars-local models pull it")


def doctor(monkeypatch: pytest.MonkeyPatch, found: list[Check], *options: str) -> tuple[int, str]:
    def examine(*_: object) -> Iterator[Check]:
        yield from found

    monkeypatch.setattr(examination, "examine", examine)
    result = CliRunner().invoke(app, ["doctor", *options])
    return result.exit_code, result.stdout


@pytest.mark.parametrize(
    ("found", "code"), [([GOOD], 0), ([GOOD, WARNING], 0), ([WARNING, FAILURE], 1)]
)
def test_only_a_failure_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, found: list[Check], code: int
) -> None:
    assert doctor(monkeypatch, found)[0] == code
    shown = doctor(monkeypatch, found, "--json")
    content = json.loads(shown[1])
    assert (shown[0], content["exit_code"]) == (code, code)
    assert [row["name"] for row in content["checks"]] == [check.name for check in found]


def test_lines_fit_a_terminal_and_hide_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = doctor(monkeypatch, [GOOD, WARNING, FAILURE])
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text and "-> install it" in text


def test_the_home_folder_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(Path.home())
    found = Check("a", "failure", f"{home}/secret/x.gguf in {home}: {home}s", f"remove {home}/x")
    shown = page(found)
    _, text = doctor(monkeypatch, [found], "--json")
    (row,) = json.loads(text)["checks"]
    for told in (shown, row["found"] + row["remedy"]):
        assert "~/secret/x.gguf in ~: " in told and "remove ~/x" in told
        assert home not in told.replace(f"{home}s", "")


def test_a_link_to_nowhere_in_the_models_folder_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "away.gguf").symlink_to(tmp_path / "nowhere" / "x.gguf")
    (found,) = examination._model("away", "hh-minilm", tmp_path)
    assert found.state == "failure" and "away.gguf" in found.found
    assert "pull or import it again" in str(found.remedy)


@pytest.mark.parametrize(("state", "remedy"), [("good", "do"), ("warning", None)])
def test_a_remedy_stands_by_all_that_is_not_good(state: checks.State, remedy: str | None) -> None:
    with pytest.raises(ValueError, match="remedy"):
        Check("x", state, "y", remedy)


def test_cpus_without_fast_kernels_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("model name : Slow\nflags : fpu sse2\n")
    assert checks.about_cpu(path).state == "warning"
    path.write_text("model name : Fast\nflags : fpu avx2 fma\n")
    found = checks.about_cpu(path)
    assert found.state == "good" and "avx2 fma" in found.found
    assert checks.about_cpu(tmp_path / "none").state == "good"


def test_little_memory_is_a_warning_with_the_number() -> None:
    found = checks.about_memory(100 << 20, 4 << 30)
    assert found.state == "warning" and "100 MiB available of 4096 MiB" in found.found
    assert checks.about_memory(8 << 30).state == "good"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ('print(\'{"error": "no such thing"}\')', "no such thing"),
        ("print('garbage')", "said nothing"),
        ("import time; time.sleep(60)", "longer than"),
    ],
)
def test_a_trial_that_ends_badly_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    monkeypatch.setattr(trials, "_PROGRAM", program)
    process = trials.start("llama")
    with pytest.raises(TrialFailed, match=said):
        trials.finish(process, 5.0)
    assert process.poll() is not None


def test_a_missing_model_fails_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = 'print(\'{"build": "b", "devices": [], "offloads": false, '
    program += '"version": "1", "providers": []}\')'
    monkeypatch.setattr(trials, "_PROGRAM", program)
    found = list(examination.examine("SmolLM2-135M-Instruct.Q4_1", "hh-minilm", tmp_path))
    assert found[-1].state == "failure" and "models pull" in str(found[-1].remedy)
    assert checks.exit_code(found) == 1
