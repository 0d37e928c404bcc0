"""`stars-local bundle` from the command line, and the runbook's own lines."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stars_local.bundles.create import Source, create_bundle
from stars_local.cli.app import app
from tests.support.tiny_gguf import write_tiny
from tests.support.tiny_reward import write_tiny_reward
from tests.support.tiny_wheel import write_wheel

RUNBOOK = Path(__file__).parents[2] / "docs" / "airgap.md"
runner = CliRunner()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own: tiny models in its folders, its bundle to be `stars.tar`."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("STARS_LOCAL_MODELS_DIR", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    write_tiny(tmp_path / "models" / "tiny.gguf", "llama")
    write_tiny_reward(tmp_path / "tiny-reward")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, code: int = 0) -> str:
    result = runner.invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def create(*more: str) -> str:
    return run("bundle", "create", "stars.tar", "--model", "tiny", "--reward", "tiny-reward", *more)


def test_a_bundle_installs_on_another_machine(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create()
    monkeypatch.setenv("STARS_LOCAL_MODELS_DIR", str(place / "other"))
    (place / "other").mkdir()
    installed = run("bundle", "install", "stars.tar")
    assert "tiny.gguf" in installed and "reward.json" in installed
    whole = (place / "models" / "tiny.gguf").read_bytes()
    assert (place / "other" / "tiny.gguf").read_bytes() == whole
    assert "intact   " in run("models", "verify")
    (row,) = [row for row in json.loads(run("models", "list", "--json")) if row["here"]]
    assert (row["name"], row["source"]) == ("tiny", "bundle:stars.tar")


def test_verify_lists_members_and_licences(place: Path) -> None:
    create()
    found = json.loads(run("bundle", "verify", "stars.tar", "--json"))
    assert found["signature_checked"] is False
    names = {item["name"] for item in found["items"]}
    assert {"models/tiny.gguf", "rewards/tiny-reward/reward.json", "sbom.json"} <= names
    assert "intact: " in run("bundle", "verify", "stars.tar")


def test_a_damaged_bundle_is_one_line_and_installs_nothing(place: Path) -> None:
    create()
    data = bytearray((place / "stars.tar").read_bytes())
    data[data.index(b"GGUF") + 9] ^= 1
    (place / "stars.tar").write_bytes(data)
    (place / "models" / "tiny.gguf").unlink()
    said = run("bundle", "install", "stars.tar", code=1)
    assert "models/tiny.gguf is damaged" in said.splitlines()[-1]
    assert not (place / "models" / "tiny.gguf").exists()


def test_wheels_are_taken_from_a_folder_that_has_ours(place: Path) -> None:
    (place / "wheels").mkdir()
    said = run(
        "bundle", "create", "stars.tar", "--model", "tiny", "--wheels-from", "wheels", code=1
    )
    assert "no wheel of stars_local" in said
    run("bundle", "create", "stars.tar", "--wheels", "--wheels-from", "wheels", code=2)
    assert not (place / "stars.tar").exists()


def test_the_runbook_lines_work(place: Path) -> None:
    """Those that need a network, wheels or real weights are only held against the help."""
    blocks = re.findall(r"^```\n(.*?)^```", RUNBOOK.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    ours = [line.split("stars-local ", 1)[1] for line in lines if "stars-local " in line]
    assert len(ours) >= 6
    for line in ours:
        tiny = line.replace("SmolLM2-135M-Instruct.Q4_1", "tiny").replace(
            "hh-minilm", "tiny-reward"
        )
        words = shlex.split(tiny.replace(" --wheels", ""))
        if words[:1] in (["doctor"], ["chat"]) or words[:2] == ["models", "pull"]:
            n_words = 2 if words[0] == "models" else 1
            run(*words[:n_words], "--help")
        else:
            run(*words)
    assert (place / "stars.tar").is_file()


def here(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    """Another machine's folders."""
    monkeypatch.setenv("XDG_DATA_HOME", str(place / name))
    monkeypatch.setenv("STARS_LOCAL_MODELS_DIR", str(place / name / "models"))
    (place / name / "models").mkdir(parents=True)
    return place / name / "stars-local" / "calibrations"


def test_only_own_calibrations_travel_and_none_is_overwritten(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create()
    assert "calibrations/" not in run("bundle", "verify", "stars.tar")
    mine = place / "data" / "stars-local" / "calibrations"
    mine.mkdir(parents=True)
    for name in ("a", "b"):
        (mine / f"{name}.json").write_text(f'"{name} of the first machine"')
    create()
    theirs = here(place, monkeypatch, "other")
    theirs.mkdir(parents=True)
    (theirs / "a.json").write_text("measured here")
    for _ in range(2):
        lines = run("bundle", "install", "stars.tar").splitlines()
        assert [line for line in lines if line.startswith(f"kept {theirs / 'a.json'}: ")]
        assert f"installed {theirs / 'b.json'}" in lines
        assert f"installed {place / 'other' / 'models' / 'tiny.gguf'}" in lines
    assert (theirs / "a.json").read_text() == "measured here"
    assert (theirs / "b.json").read_bytes() == (mine / "b.json").read_bytes()


def test_a_licence_as_long_as_a_book_travels_as_a_line(place: Path) -> None:
    book = "All rights\n\x1b[2J" + "x" * 1_000_000
    write_tiny(place / "models" / "tiny.gguf", "llama", licence=book)
    create()
    run("bundle", "install", "stars.tar", "--models-dir", "other")
    (row,) = [row for row in json.loads(run("models", "list", "--models-dir", "other", "--json"))
              if row["here"]]  # fmt: skip
    assert row["trouble"] is None and row["licence"].startswith("All rights ?[2Jxxx")
    assert len(row["licence"]) == 200


def test_a_bundle_of_a_name_that_is_no_text_installs(place: Path) -> None:
    create()
    odd = place / os.fsdecode(b"st\xffrs.tar")
    (place / "stars.tar").rename(odd)
    said = run("bundle", "install", str(odd), "--models-dir", os.fsdecode(b"oth\xffr"))
    assert r"installed oth\udcffr/tiny.gguf" in said
    run("bundle", "install", str(odd), "--models-dir", "other")
    (row,) = [row for row in json.loads(run("models", "list", "--models-dir", "other", "--json"))
              if row["here"]]  # fmt: skip
    assert row["source"] == r"bundle:st\udcffrs.tar" and row["trouble"] is None


def test_a_manifest_that_cannot_be_written_is_one_line(place: Path) -> None:
    create()
    (place / "other").mkdir()
    (place / "other" / "manifests").write_text("in the way")
    said = run("bundle", "install", "stars.tar", "--models-dir", "other", code=1)
    assert "the manifest of tiny.gguf cannot be written" in said.splitlines()[-1]


def test_an_installed_reward_model_goes_by_its_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create()
    here(place, monkeypatch, "other")
    monkeypatch.chdir(place / "other")
    assert "tiny-reward" not in run("models", "licences")
    run("bundle", "install", "../stars.tar")
    asked: list[bool] = []
    monkeypatch.setattr("stars_local.reward.onnx_model.probe", lambda *_: asked.append(True))
    options = ["--reward", "tiny-reward", "--model", "tiny", "--n-ctx", "256", "--threads", "1"]
    given = ["--alpha", "0.5", "--beta", "0.5", "--reward-threshold", "0", "--provider", "cpu"]
    answer = json.loads(run("generate", "hello", "--json", "--max-new-tokens", "4", "--seed", "0",
                            "--segment-size", "2", *options, *given))  # fmt: skip
    assert answer["reward_model"]["name"] == "tiny"
    assert asked, "what came in a bundle is tried in a process of its own first"
    licences = {
        (row["kind"], row["name"]) for row in json.loads(run("models", "licences", "--json"))
    }
    assert {("reward", "tiny-reward"), ("reward", "hh-minilm")} <= licences
    network = place / "other" / "models" / "tiny-reward" / "model.onnx"
    assert f"intact   {network}" in run("models", "verify").splitlines()
    network.write_bytes(network.read_bytes()[:-1] + b"x")
    assert f"DAMAGED  {network}" in runner.invoke(app, ["models", "verify"]).stdout
    manifest = network.with_name("reward.json")
    manifest.write_text("{}")
    assert f"DAMAGED  {manifest}" in runner.invoke(app, ["models", "verify"]).stdout
    assert "reward   tiny-reward" in run("models", "licences")


def test_a_reward_model_that_its_name_would_hide_is_refused(place: Path) -> None:
    """The name of the shipped model means the shipped model, so another of it is never used."""
    from stars_local.reward.resolve import DEFAULT_MODEL, known_models

    other = write_tiny_reward(place / "mine" / DEFAULT_MODEL)
    said = run("bundle", "create", "stars.tar", "--reward", str(other), code=1)
    assert "would never be used" in said and "rename the folder" in said.splitlines()[-1]
    assert not (place / "stars.tar").exists()
    sources = {
        f"rewards/{DEFAULT_MODEL}/{path.name}": Source(path, None) for path in other.iterdir()
    }
    create_bundle(place / "stars.tar", sources, "1", lambda _stage, _done, _total: None)
    said = run("bundle", "install", "stars.tar", code=1)
    assert "would never be used" in said and "rename the folder" in said.splitlines()[-1]
    assert not (place / "models" / DEFAULT_MODEL).exists()
    same = place / "copy" / DEFAULT_MODEL
    shutil.copytree(known_models()[DEFAULT_MODEL], same)
    run("bundle", "create", "stars.tar", "--reward", str(same))
    assert f"{DEFAULT_MODEL}/reward.json" in run("bundle", "install", "stars.tar")
    run("bundle", "install", "stars.tar")


def test_a_reward_model_is_found_in_the_named_models_folder(place: Path) -> None:
    (place / "tiny-reward").rename(place / "models" / "kept")
    (place / "models").rename(place / "elsewhere")
    run("bundle", "create", "stars.tar", "--reward", "kept", "--models-dir", "elsewhere")
    assert "rewards/kept/reward.json" in run("bundle", "verify", "stars.tar")


def test_a_bundle_never_takes_the_place_of_what_it_reads(place: Path) -> None:
    model = place / "models" / "tiny.gguf"
    (place / "key.pem").write_text("a key")
    (place / "hard.gguf").hardlink_to(model)
    before = model.read_bytes()
    for out in ("models/tiny.gguf", "models/../models/tiny.gguf", "hard.gguf"):
        assert "which is read" in run("bundle", "create", out, "--model", "tiny", code=2)
    said = run("bundle", "create", "key.pem", "--model", "tiny", "--sign", "key.pem", code=2)
    assert "which is read" in said and (place / "key.pem").read_text() == "a key"
    assert model.read_bytes() == before


@pytest.mark.parametrize("out", [".", "models", "nowhere/b.tar", "pipe", "/dev/null"])
def test_a_place_where_no_bundle_can_be_is_refused_before_anything_is_read(
    out: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(place / "pipe")
    monkeypatch.setattr("stars_local.bundles.create.sha256_of", lambda *_: pytest.fail("hashed"))
    said = run("bundle", "create", out, "--model", "tiny", code=2)
    assert said.startswith(f"stars-local: {out} ") and len(said.splitlines()) == 1
    assert not list(place.rglob(".*.unfinished"))


@pytest.mark.parametrize("name", ["pipe", "models", "nowhere.jsonl"])
def test_what_is_no_plain_file_is_named_and_not_waited_for(name: str, place: Path) -> None:
    os.mkfifo(place / "pipe")
    said = run("bundle", "create", "stars.tar", "--prompts", name, code=1)
    assert said.startswith(f"stars-local: {name} cannot be ") and "stars.tar" not in said
    for command in ("verify", "install"):
        (line,) = run("bundle", command, name, code=1).splitlines()
        assert line.startswith(f"stars-local: {name}: not a bundle")


def test_names_reach_a_terminal_as_pictures(place: Path) -> None:
    said = run("bundle", "create", "\x1b[31mz.tar", "--model", "tiny")
    assert "\x1b" not in said and "\u241b[31mz.tar: " in said


def test_a_badly_named_calibration_is_left_out_and_that_is_said(place: Path) -> None:
    mine = place / "data" / "stars-local" / "calibrations"
    (mine / "folder.json").mkdir(parents=True)
    for name in ("good", "my cal\x1b"):
        (mine / f"{name}.json").write_text("{}")
    result = runner.invoke(app, ["bundle", "create", "stars.tar", "--model", "tiny"])
    assert result.exit_code == 0, result.output
    left = [line for line in result.stderr.splitlines() if line.startswith("left out ")]
    assert len(left) == 2 and any("my cal\u241b.json" in line for line in left)
    listed = run("bundle", "verify", "stars.tar")
    assert "calibrations/good.json" in listed and listed.count("calibrations/") == 1


def test_a_bundle_of_nothing_is_refused(place: Path) -> None:
    said = run("bundle", "create", "stars.tar", code=2)
    assert "nothing to carry: give --model" in said
    assert not (place / "stars.tar").exists()


def test_two_files_of_one_name_are_refused_instead_of_one_being_lost(place: Path) -> None:
    (place / "more").mkdir()
    write_tiny(place / "more" / "tiny.gguf", "llama", seed=1)
    both = ["--model", "tiny", "--model", "more/tiny.gguf"]
    said = run("bundle", "create", "stars.tar", *both, code=2)
    assert "more/tiny.gguf would both be models/tiny.gguf: rename one" in said
    run("bundle", "create", "stars.tar", "--model", "tiny", "--model", "models/tiny.gguf")


def test_whom_the_wheels_are_for_is_shown(place: Path) -> None:
    (place / "wheels").mkdir()
    ours = write_wheel(place / "wheels", "stars_local", "1", {"a.py": b""})
    ours.rename(place / "wheels" / "stars_local-1-cp27-cp27-win_arm64.whl")
    create("--wheels-from", "wheels")
    assert "wheels for cp27 on win-arm64" in run("bundle", "verify", "stars.tar").splitlines()
    told = json.loads(run("bundle", "verify", "stars.tar", "--json"))["wheels_for"]
    assert told == {"pythons": ["cp27"], "platforms": ["win-arm64"]}
    lines = run("bundle", "install", "stars.tar").splitlines()
    assert lines[-1] == "wheels for cp27 on win-arm64: installed by the install.py beside them"
    create()
    assert "wheels" not in run("bundle", "verify", "stars.tar")
