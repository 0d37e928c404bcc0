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
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward

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
    (found,) = examination._model("away", "hh-minilm", tmp_path, None)
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


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of libraries go well, those of models do not."""
    said = json.dumps({"build": "b", "devices": [], "offloads": False, "version": "1",
                       "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]})  # fmt: skip
    program = f"""
import sys
print({said!r} if len(sys.argv) == 2 else '{{"error": "does not load"}}')
"""
    monkeypatch.setattr(trials, "_PROGRAM", program)


@pytest.mark.usefixtures("stub")
def test_a_missing_model_fails_with_its_remedy(tmp_path: Path) -> None:
    found = list(examination.examine("SmolLM2-135M-Instruct.Q4_1", "hh-minilm", tmp_path))
    assert found[-1].state == "failure" and "models pull" in str(found[-1].remedy)
    assert checks.exit_code(found) == 1


@pytest.mark.usefixtures("stub")
def test_models_that_nobody_knows_are_not_to_be_pulled(tmp_path: Path) -> None:
    found = {check.name: check for check in examination.examine("nosuch", "no-reward", tmp_path)}
    assert "'nosuch'" in found["model"].found
    assert "models list" in str(found["model"].remedy) and "pull" not in str(found["model"].remedy)
    assert found["reward"].state == "failure" and "'no-reward'" in found["reward"].found
    assert not any("none needed" in str(check.remedy) for check in found.values())
    assert not [name for name in found if name.startswith("provider ")], "no blame for the others"


@pytest.mark.usefixtures("stub")
def test_a_reward_model_that_nothing_loads_is_not_said_to_run_on_the_cpu(tmp_path: Path) -> None:
    found = {check.name: check for check in examination.examine("x", "hh-minilm", tmp_path)}
    assert found["provider cpu"].state == "failure" and found["provider cuda"].state == "warning"
    assert "reward check" in str(found["provider cuda"].remedy)


@pytest.mark.slow
def test_the_report_tells_no_prompt_and_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"STARS_LOCAL_SESSIONS": "sessions", "STARS_LOCAL_MODELS_DIR": "models"}
    for variable, name in {**folders, "XDG_DATA_HOME": "data", "XDG_CACHE_HOME": "cache"}.items():
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    write_tiny(tmp_path / "models" / "tiny.gguf", "llama")
    write_tiny_reward(tmp_path / "tiny-reward")
    models = ["--model", "tiny", "--reward", "tiny-reward"]
    secret = "zanzibar quokka seventeen"
    small = "--n-ctx 256 --threads 1 --seed 0 --max-new-tokens 8 --segment-size 4 --provider cpu"
    given = "--alpha 0.5 --beta 0.5 --reward-threshold 0"
    words = ["chat", *models, *small.split(), *given.split()]
    asked = CliRunner().invoke(app, words, input=f"{secret}\n")
    assert asked.exit_code == 0, asked.output
    (kept,) = (tmp_path / "sessions").glob("*.jsonl")
    assert secret in kept.read_text("utf-8")
    answer = asked.stdout.strip()
    found = list(examination.examine("tiny", "tiny-reward", None))
    for more in ([], ["--json"]):
        _, report = doctor(monkeypatch, found, *more)
        assert "rollback" in report
        for text in (*secret.split(), answer):
            assert text and text not in report
