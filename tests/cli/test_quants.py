"""`quants make` and `quants compare` over tiny files and a tiny reward model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from typer.testing import CliRunner

from stars_local.cli import quants_compare, quants_rows
from stars_local.cli.app import app
from stars_local.llama.model import NativeModel
from stars_local.method_settings import Thresholds
from stars_local.quants import timing
from tests.support import tiny_reward
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward

pytestmark = pytest.mark.slow

GIVEN = ["--alpha", "0.5", "--beta", "0.5", "--reward-threshold", "0", "--threads", "1"]
SHORT = ["--segment-size", "4", "--max-new-tokens", "8", "--seed", "0", "--window", "64"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quants")
    source = write_tiny(folder / "tiny.F32.gguf", "llama", n_ctx=2048)
    made = CliRunner().invoke(
        app, ["quants", "make", str(source), "--types", "Q8_0,Q4_0", "--out", str(folder), "--json"]
    )
    assert made.exit_code == 0, made.stderr
    paths = {
        Path(row["path"]).name.split(".")[1]: Path(row["path"]) for row in json.loads(made.stdout)
    }
    return {"source": source, **paths, "reward": write_tiny_reward(folder / "reward")}


def compare(files: dict[str, Path], out: Path, *names: Path, extra: tuple[str, ...] = ()) -> Any:
    reward = ["--reward", str(files["reward"]), "--out", str(out), "--limit", "4", "--windows", "3"]
    given = [str(files["source"]), *map(str, names), *reward, *GIVEN, *SHORT, "--json", *extra]
    return CliRunner().invoke(app, ["quants", "compare", *given])


def mean_reward(results: Path, *arms: str) -> float:
    lines = map(json.loads, results.read_text().splitlines())
    return float(np.mean([line["rewards"]["steering"] for line in lines if line["arm"] in arms]))


def test_files_are_compared_and_a_second_start_draws_nothing(
    files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = compare(files, out, files["Q8_0"], files["Q4_0"])
    assert result.exit_code == 0, result.stderr
    assert "no --judge" in result.stderr
    found = json.loads(result.stdout)
    first, eight, four = found["files"]
    assert first["kl"]["max"] < 1e-9 and first["ppl_ratio"]["value"] == pytest.approx(1)
    assert first["kl"]["mean"]["value"] <= eight["kl"]["mean"]["value"]
    assert eight["kl"]["mean"]["value"] < four["kl"]["mean"]["value"]
    assert first["vanilla"]["win_rate"]["steering"]["value"] == 0.5
    assert first["two_sample"] is None and four["two_sample"]["n"] == 4
    assert {"all", "risky"} <= set(four["stars"]["refusals"])
    assert four["recovery"]["stars"]["steering"]["gained"]["n"] == 4
    assert first["stars"]["difference_stars"]["steering"]["value"] == 0
    steered, plain = (four["stars"][key]["steering"] for key in ("difference_stars", "difference"))
    gained = first["stars"]["difference"]["steering"]["value"]
    assert steered["value"] == pytest.approx(plain["value"] - gained)
    (results,) = out.glob("*Q4_0*/results.jsonl")
    (reference,) = out.glob("*F32*/results.jsonl")
    twice, once = mean_reward(results, "vanilla", "apart"), mean_reward(reference, "vanilla")
    assert four["lost_both"]["steering"]["value"] == pytest.approx(once - twice)
    assert eight["cost"]["n_prompts"] == 8
    assert min(eight["cost"]["decode_tokens_per_s"].values()) > 0
    assert eight["cost"]["memory_bytes"]["estimated"] > eight["size_bytes"]
    arms = {(row["name"], arm) for row in found["files"] for arm in ("vanilla", "stars")}
    assert {(each["name"], each["arm"]) for each in found["pareto"]} <= arms
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.jsonl")}
    again = compare(files, out, files["Q8_0"], files["Q4_0"])
    assert json.loads(again.stdout) == found
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*.jsonl")}


def test_a_file_that_vanishes_fails_alone(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = tmp_path / "doomed.gguf"
    doomed.write_bytes(files["Q4_0"].read_bytes())
    answers = quants_rows.answers

    def vanish(run: Any, path: Path, *rest: Any) -> Any:
        if path == doomed:
            doomed.unlink()
        return answers(run, path, *rest)

    monkeypatch.setattr(quants_rows, "answers", vanish)
    result = compare(files, tmp_path / "run", doomed, files["Q8_0"])
    assert result.exit_code == 1
    assert "1 of 3 files failed, the first is doomed" in result.stderr
    rows = json.loads(result.stdout)["files"]
    assert "error" in rows[1] and "error" not in rows[2]


@pytest.mark.parametrize("n", [1, 3])
def test_no_more_than_two_models_are_ever_open(
    n: int, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: set[int] = set()
    most = []
    start, end = NativeModel.__init__, NativeModel.close

    def begin(self: NativeModel, *args: Any, **more: Any) -> None:
        start(self, *args, **more)
        opened.add(id(self))
        most.append(len(opened))

    def close(self: NativeModel) -> None:
        opened.discard(id(self))
        end(self)

    monkeypatch.setattr(NativeModel, "__init__", begin)
    monkeypatch.setattr(NativeModel, "close", close)
    copies = [tmp_path / f"{i}.gguf" for i in range(n)]
    for i, each in enumerate(copies):
        write_tiny(each, "llama", n_ctx=2048, seed=i)
    result = compare(files, tmp_path / "run", *copies)
    assert result.exit_code == 0, result.stderr
    assert max(most) == 2 and len(most) > 2 * n
    assert not opened


def test_names_and_errors_are_shown_and_never_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "x\x1b]0;pwned\x07\x1b[2J"
    row = {"name": odd, "bpw": 4.5, "ppl": {"value": 9.0}, "kl": {"mean": {"value": 0.1}}}
    rows = [{"name": odd, "error": odd}, row]
    quants_compare._show({"files": rows, "judge": "", "advice": odd}, Path(odd))
    shown = capsys.readouterr().out
    assert shown.count("pwned") == 5
    assert "\x1b" not in shown and "\x07" not in shown


def test_a_file_that_vanishes_while_it_is_timed_fails_alone(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = write_tiny(tmp_path / "doomed.gguf", "llama", n_ctx=2048, seed=1)
    timed = timing.time_model

    def vanish(model: Any, **more: Any) -> Any:
        found = timed(model, **more)
        if Path(model.info.path) == doomed:
            doomed.unlink()
        return found

    monkeypatch.setattr(timing, "time_model", vanish)
    result = compare(files, tmp_path / "run", doomed, files["Q8_0"])
    assert not doomed.exists()
    assert result.exit_code == 1 and "internal error" not in result.stderr
    rows = json.loads(result.stdout)["files"]
    assert "error" in rows[1] and "error" not in rows[2]


def test_a_file_with_thresholds_of_its_own_is_run_with_them_too(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = quants_rows.answers

    def own(run: Any, path: Path, *rest: Any) -> Any:
        r_star = 0.0 if path == files["source"] else 9.0
        given = Thresholds(alpha=0.5, beta=0.5, reward_threshold=r_star)
        return answers(dataclasses.replace(run, thresholds=lambda *_: given), path, *rest)

    monkeypatch.setattr(quants_rows, "answers", own)
    result = compare(files, tmp_path / "run", files["Q8_0"])
    assert result.exit_code == 0, result.stderr
    first, eight = json.loads(result.stdout)["files"]
    assert "stars-own" not in first
    cost = {arm: eight[arm]["n_decoded_tokens"] for arm in ("vanilla", "stars", "stars-own")}
    assert cost["stars-own"] > cost["stars"] >= cost["vanilla"]
    assert set(eight["recovery"]) == {"stars", "stars-own"}


def test_a_measurement_that_was_damaged_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert compare(files, out, files["Q8_0"]).exit_code == 0
    for kept in out.glob("fidelity-*.json"):
        kept.write_text("{", encoding="utf-8")
    result = compare(files, out, files["Q8_0"])
    assert result.exit_code == 1
    assert "fidelity-" in result.stderr and "remove it" in result.stderr


def test_a_report_lies_beside_the_run(files: dict[str, Path], tmp_path: Path) -> None:
    doomed = tmp_path / "<b>$x_y$.gguf"
    doomed.write_bytes(files["Q4_0"].read_bytes())
    result = compare(files, tmp_path / "run", doomed)
    assert result.exit_code == 0, result.stderr
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4 and "<script" not in page and "src=" not in page
    assert "&lt;b&gt;" in page and "<b>" not in page
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    for title in ("Fidelity", "Alignment", "Recovery", "Cost", "What these prompts can tell"):
        assert f"## {title}" in text and f"<h2>{title}</h2>" in page
    kept = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert kept == json.loads(result.stdout)


def test_a_file_in_parts_is_refused_before_anything_is_drawn(
    files: dict[str, Path], tmp_path: Path
) -> None:
    tensors = gguf.GGUFReader(files["source"]).tensors
    parts = [tmp_path / f"part-0000{n}-of-00002.gguf" for n in (1, 2)]
    for number, part in enumerate(parts):
        writer = gguf.GGUFWriter(part, "llama")
        writer.add_uint16("split.count", 2)
        writer.add_uint16("split.no", number)
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    result = compare(files, tmp_path / "run", parts[0])
    assert result.exit_code == 2
    assert "one part of several: join them" in result.stderr
    assert not (tmp_path / "run").exists()


def reworded(path: Path, source: Path, *, n_more: int) -> Path:
    """A file like another, its vocabulary in another order, with more tokens at its end."""
    reader = gguf.GGUFReader(source)
    words = [str(bytes(part), "utf-8") for part in tokens_of(reader)]
    words = [words[1], words[0], *words[2:], *(f"more{n}" for n in range(n_more))]
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "llama.vocab_size"):
            continue
        if name == "tokenizer.ggml.tokens":
            writer.add_token_list(words)
        elif name == "tokenizer.ggml.token_type":
            writer.add_token_types([*field.contents(), *([1] * n_more)])
        else:
            writer.add_key_value(
                name, field.contents(), field.types[0], field.types[1] if field.types[1:] else None
            )
    writer.add_vocab_size(len(words))
    for tensor in reader.tensors:
        rows = tensor.data
        if tensor.name == "token_embd.weight":
            rows = np.concatenate([rows, rows[:n_more]])
        writer.add_tensor(tensor.name, rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokens_of(reader: gguf.GGUFReader) -> list[Any]:
    field = reader.fields["tokenizer.ggml.tokens"]
    return [field.parts[at] for at in field.data]


@pytest.mark.parametrize("n_more", [0, 3])
def test_another_vocabulary_is_refused_before_anything_is_drawn(
    files: dict[str, Path], tmp_path: Path, n_more: int
) -> None:
    other = reworded(tmp_path / "other.gguf", files["source"], n_more=n_more)
    result = compare(files, tmp_path / "run", files["Q8_0"], other)
    assert result.exit_code == 2
    assert "vocabulary" in result.stderr and "files of one model" in result.stderr
    assert not list(tmp_path.rglob("*.jsonl"))


def test_another_architecture_is_a_usage_error(files: dict[str, Path], tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.gguf", "mamba")
    result = compare(files, tmp_path / "run", other)
    assert result.exit_code == 2
    assert "architecture 'mamba'" in result.stderr


@pytest.mark.parametrize("command", ["make", "compare", "advise"])
def test_unknown_types_are_answered_with_a_list(
    files: dict[str, Path], tmp_path: Path, command: str
) -> None:
    args = ["quants", command, str(files["source"]), "--types", "Q7", "--out", str(tmp_path)]
    if command == "compare":
        args += ["--reward", str(files["reward"])]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2
    assert "'Q7'" in result.stderr and "Q4_K_M" in result.stderr
    assert not list(tmp_path.iterdir())


def test_missing_types_are_made_and_a_judge_is_asked(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_reward, "SEED", 6)  # the judge must not be the model that steers
    judge = write_tiny_reward(tmp_path / "judge", name="other")
    given = ("--types", "Q5_0", "--judge", f"reward:{judge}")
    result = compare(files, tmp_path / "run", extra=given)
    assert result.exit_code == 0, result.stderr
    assert "no --judge" not in result.stderr
    found = json.loads(result.stdout)
    assert [row["quant"] for row in found["files"]] == ["F32", "Q5_0"]
    assert (tmp_path / "run" / "files" / "tiny.Q5_0.gguf").is_file()
    judged = found["files"][1]["stars"]["rewards"]
    assert found["judge"] != "steering" and set(judged) == {"steering", found["judge"]}


def test_a_judge_that_steers_or_is_none_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    for judge, said in (
        (f"reward:{files['reward']}", "steers"),
        ("refusal", "give reward:DIR"),
    ):
        result = compare(files, tmp_path / "run", files["Q8_0"], extra=("--judge", judge))
        assert result.exit_code == 2
        assert said in result.stderr
    assert not (tmp_path / "run").exists()


def test_nothing_to_compare_is_a_usage_error(files: dict[str, Path], tmp_path: Path) -> None:
    result = compare(files, tmp_path / "run")
    assert result.exit_code == 2 and "--types" in result.stderr


def test_a_quantised_source_is_said_loudly(files: dict[str, Path], tmp_path: Path) -> None:
    args = ["quants", "make", str(files["Q8_0"]), "--types", "Q4_0", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.stderr
    assert "WARNING" in result.stderr and "quantised already" in result.stderr
