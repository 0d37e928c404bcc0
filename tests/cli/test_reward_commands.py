"""`reward score`, `check` and `export` from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stars_local.cli.app import app
from stars_local.cli.reward_export import parse_axes, parse_pairs
from stars_local.core.errors import UsageError
from tests.support.tiny_reward import network, table, write_tiny_reward

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_reward(tmp_path_factory.mktemp("commands") / "tiny")


def lines(*objects: object) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


def score(folder: Path, text: str) -> tuple[list[dict[str, object]], int, str]:
    result = runner.invoke(app, ["reward", "score", "--reward", str(folder)], input=text)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return found, result.exit_code, result.stderr


def failed(code: int, *arguments: str) -> str:
    """The one line on stderr of a command that ends with this exit code."""
    result = runner.invoke(app, ["reward", *arguments])
    assert result.exit_code == code
    assert result.stderr.startswith("stars-local: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


HOSTILE = "evil\x1b]0;pwned\x07\x1b[2J"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_reward(tmp_path_factory.mktemp("hostile") / "tiny", name=HOSTILE)


def test_the_name_of_a_reward_model_is_shown_and_never_obeyed(hostile: Path) -> None:
    for flags in ([], ["--json"]):
        done = runner.invoke(app, ["reward", "check", str(hostile), *flags])
        assert done.exit_code == 0 and "pwned" in done.output
        assert "\x1b" not in done.output and "\x07" not in done.output
    assert json.loads(done.stdout)["name"] == HOSTILE
    _, code, stderr = score(hostile, lines({"prompt": "p", "response": "\ud800"}))
    assert code == 1 and "pwned" in stderr
    assert "\x1b" not in stderr and "\x07" not in stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_clean_line(folder: Path, unbuffered: str) -> None:
    start = "from stars_local.cli.app import main; main()"
    program = [sys.executable, "-c", start, "reward", "score", "--reward", str(folder)]
    given = lines({"prompt": "p", "response": "r"}).encode()
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            program,
            input=given,
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "stars-local: cannot write the output: No space left on device: make room\n"
    )


def test_lines_come_back_in_order_with_rewards(folder: Path) -> None:
    given = [
        {"id": 7, "prompt": "kill ?", "response": "no"},
        {"prompt": [{"role": "user", "content": "kill ?"}], "response": "no", "note": "é"},
        {"prompt": "kill ?", "response": ""},
    ]
    found, code, _ = score(folder, lines(*given))
    assert code == 0
    assert [{k: v for k, v in line.items() if k != "rewards"} for line in found] == given
    assert set(found[0]["rewards"]) == {"harmless", "helpful"}  # type: ignore[call-overload]
    assert found[0]["rewards"] == found[1]["rewards"]  # a text is the user's one message
    assert found[2]["rewards"] != found[0]["rewards"]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("nonsense", "not JSON"),
        ("[1]", "expected a JSON object"),
        ('{"prompt": "p"}', "no field 'response'"),
        ('{"prompt": 1, "response": "r"}', "'prompt' must be text"),
        ('{"prompt": [{"role": "tool", "content": "x"}], "response": "r"}', "a role of"),
        ('{"prompt": "p", "response": "\\ud800"}', "tokenizer"),
        ("[" * 100_000, "not JSON"),
        ('{"prompt": "p", "response": "r", "id": "\\ud800"}', "not JSON that can be written"),
        ('{"prompt": "p", "response": "r", "id": NaN}', "not JSON that can be written"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_scored(folder: Path, bad: str, said: str) -> None:
    good = lines({"prompt": "p", "response": "r"})
    found, code, stderr = score(folder, good + "\n" + bad + "\n" + good)
    assert len(found) == 2
    assert "line 3: " in stderr
    assert said in stderr
    assert stderr.endswith("stars-local: 1 of 3 lines could not be scored\n")
    assert code == 1


def test_exit_code_and_streams_of_a_bad_line(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'\xff\xfe\n{"prompt": "p", "response": "r"}\n')
    code = "from stars_local.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "reward", "score", str(file), "--reward", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert [line.partition(" ")[0] for line in done.stderr.splitlines()] == ["stars-local:"] * 2


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    assert "nowhere.jsonl" in failed(1, "score", "nowhere.jsonl", "--reward", str(folder))


def test_check_says_what_it_found(folder: Path) -> None:
    result = runner.invoke(app, ["reward", "check", str(folder)])
    assert result.exit_code == 0
    assert "as at the export" in result.stdout
    assert "scored in batches" in result.stdout
    found = json.loads(runner.invoke(app, ["reward", "check", str(folder), "--json"]).stdout)
    assert found["passed"] is True
    assert found["provider_asked"] == "auto"


def test_a_failed_check_ends_with_1(folder: Path, tmp_path: Path) -> None:
    import onnx

    from stars_local.reward.manifest import write_manifest
    from tests.support.tiny_reward import manifest_of

    wrong = write_tiny_reward(tmp_path / "wrong")
    onnx.save_model(network(table() * 1.1), str(wrong / "model.onnx"))
    write_manifest(wrong, manifest_of(wrong))
    assert "do not use it" in failed(1, "check", str(wrong))
    result = runner.invoke(app, ["reward", "check", str(wrong), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["passed"] is False


def test_accuracy_on_pairs_in_json(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        lines(*[{"prompt": "p", "chosen": "sorry", "rejected": "sure"}] * 10), encoding="utf-8"
    )
    command = ["reward", "check", str(folder), "--pairs", str(file), "--axis", "harmless"]
    found = json.loads(runner.invoke(app, [*command, "--json"]).stdout)
    assert (found["axis"], found["pairs"]) == ("harmless", 10)
    assert found["accuracy"] in {0.0, 1.0}
    assert found["at_tokens"] == dict.fromkeys(("16", "32", "64"), found["accuracy"])
    low, high = found["ci95"]
    assert 0 <= low <= found["accuracy"] <= high <= 1
    pooled = [*command, "--pairs", str(file), "--json"]
    assert json.loads(runner.invoke(app, pooled).stdout)["pairs"] == 20
    assert "10 pairs" in runner.invoke(app, command).stdout


def test_senseless_checks_are_usage_errors(folder: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "x")
    for options, said in (
        (["--pairs", file], "needs --axis"),
        (["--pairs", file, "--axis", "harmless", "--xstest", file], "give one"),
        (["--axis", "harmless"], "--axis belongs to --pairs"),
        (["--better", "0"], "--better belongs to --pairs"),
    ):
        assert said in failed(2, "check", str(folder), *options)
    assert "'tpu'" in failed(2, "check", str(folder), "--provider", "tpu")


def test_axes_of_an_export_are_read() -> None:
    assert parse_axes("good=1-0, other=2") == [("good", (1,), (0,)), ("other", (2,), ())]
    for text in ("", "good", "good=", "good=x", "good=1-", "=1"):
        with pytest.raises(UsageError, match="--axes"):
            parse_axes(text)


def test_pairs_of_an_export_are_read(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(lines({"prompt": "p", "chosen": "a", "rejected": "b"}), encoding="utf-8")
    name, pairs = parse_pairs(f"kind={file},name=mine")
    assert (name, pairs[0].axis, pairs[0].chosen) == ("mine", "kind", "a")
    for text in (str(file), f"kind={file},size=3", "kind="):
        with pytest.raises(UsageError, match="--pairs"):
            parse_pairs(text)


@pytest.mark.parametrize(
    ("option", "value"), [("--template", "xml"), ("--form", "triple"), ("--cut", "middle")]
)
def test_wrong_choices_of_an_export_are_usage_errors(
    tmp_path: Path, option: str, value: str
) -> None:
    out = str(tmp_path / "out")
    assert value in failed(2, "export", str(tmp_path), "--out", out, option, value)


@pytest.mark.parametrize(
    ("flags", "past"), [([], None), (["--past"], True), (["--no-past"], False)]
)
def test_export_is_told_whether_to_take_past_keys_and_values(
    flags: list[str], past: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from stars_local.exporting import export

    seen = []

    def export_reward(source: Path, out: Path, options: export.ExportOptions, *_: object) -> None:
        seen.append(options.past)
        raise OSError("enough")

    monkeypatch.setattr(export, "export_reward", export_reward)
    result = runner.invoke(
        app, ["reward", "export", str(tmp_path), "--out", str(tmp_path / "out"), *flags]
    )
    assert result.exit_code == 1
    assert seen == [past]
