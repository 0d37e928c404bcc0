"""`reward.json` is read strictly, and its errors name the field."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stars_local.core.errors import RewardError
from stars_local.reward.manifest import Manifest, from_json, read_manifest, to_json, write_manifest
from tests.support.tiny_reward import manifest_of, write_tiny_reward


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_reward(tmp_path_factory.mktemp("manifest") / "tiny")


@pytest.fixture
def raw(folder: Path) -> dict[str, Any]:
    return json.loads(json.dumps(to_json(manifest_of(folder))))


def test_what_is_written_is_read(folder: Path, tmp_path: Path) -> None:
    manifest = manifest_of(folder)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["reward.json"]


@pytest.mark.parametrize(
    "field", [name for name in Manifest.__dataclass_fields__ if name != "past"]
)
def test_every_field_is_needed_and_named(raw: dict[str, Any], field: str) -> None:
    if field == "schema":
        raw["schema"] = 2
    else:
        del raw[field]
    with pytest.raises(RewardError, match=rf"^here: .*{field}"):
        from_json(raw, "here")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("precision", "int3"),
        ("accuracy", [{"accuracy": 7.0}]),
        ("accuracy", [{"axis": "none"}]),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(raw: dict[str, Any], field: str, value: Any) -> None:
    row = {"axis": raw["axes"][0]["name"], "data": "d", "pairs": 3, "accuracy": 0.5}
    row |= {"ci95": [0.1, 0.9], "at_tokens": {"16": 0.5}}
    from_json({**raw, "accuracy": [row]}, "here")
    raw[field] = [{**row, **each} for each in value] if isinstance(value, list) else value
    with pytest.raises(RewardError, match=field):
        from_json(raw, "here")


@pytest.mark.parametrize(
    ("at", "number"),
    [(("max_tokens",), 2**20 + 1), (("max_tokens",), 10**4000), (("pad_id",), 2**31)]
    + [(("template", name), value) for name in ("cls_id", "sep_id") for value in (-1, 2**31)]
    + [(("axes", 0, "output"), 2**31), (("axes", 0, "sign"), 10**4000)],
)
def test_numbers_have_upper_bounds(
    raw: dict[str, Any], at: tuple[str | int, ...], number: int
) -> None:
    *above, last = at
    node: Any = raw
    for step in above:
        node = node[step]
    node[last] = number
    with pytest.raises(RewardError, match=str(last)) as caught:
        from_json(raw, "here")
    assert len(str(caught.value)) < 200


def test_a_field_that_is_there_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest_of(folder))
    path = tmp_path / "reward.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"pad_id": 0', '"pad_id": 0, "pad_id": 1'), encoding="utf-8")
    with pytest.raises(RewardError, match='the name "pad_id" is there twice'):
        read_manifest(tmp_path)


@pytest.mark.parametrize("part", ["axes[0]", "template"])
def test_fields_of_parts_are_needed_too(raw: dict[str, Any], part: str) -> None:
    inner = raw["axes"][0] if part.startswith("axes") else raw["template"]
    gone = next(iter(inner))
    del inner[gone]
    with pytest.raises(RewardError) as caught:
        from_json(raw, "here")
    assert f"{part}.{gone}" in str(caught.value)


def test_a_misspelt_field_is_answered_with_the_right_one(raw: dict[str, Any]) -> None:
    raw["tokeniser_file"] = raw.pop("tokenizer_file")
    with pytest.raises(RewardError, match=r"'tokeniser_file' \(did you mean 'tokenizer_file'\?\)"):
        from_json(raw, "here")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("max_tokens", "many", "whole number"),
        ("max_tokens", True, "whole number"),
        ("max_tokens", 3, "above 3"),
        ("batch_invariant", 1, "true or false"),
        ("name", "", "not empty"),
        ("kind", "decodre", "did you mean 'decoder'"),
        ("cut", "middle", "left, right"),
        ("model_file", "../model.onnx", "same folder"),
        ("tokenizer_file", "/etc/passwd", "same folder"),
        ("data_files", {"..": "0" * 64}, "same folder"),
        ("sha256", "abc", "hexadecimal"),
        ("axes", [], "at least one"),
        ("axes", {}, "a list"),
        ("accuracy", None, "a list"),
        ("max_prompt_tokens", None, "max_prompt_tokens"),
        ("max_prompt_tokens", 21, "max_prompt_tokens"),
        ("pad_id", -1, "pad_id"),
        ("licence", None, "text"),
    ],
)
def test_wrong_values_are_named(raw: dict[str, Any], field: str, value: object, said: str) -> None:
    raw[field] = value
    with pytest.raises(RewardError) as caught:
        from_json(raw, "here")
    assert field in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("spread", 0), ("sign", 2), ("output", -1), ("name", "a=b"), ("mean", float("nan"))],
)
def test_wrong_axes_are_named(raw: dict[str, Any], field: str, value: object) -> None:
    raw["axes"][1][field] = value
    with pytest.raises(RewardError, match=rf"axes\[1\]\.{field}"):
        from_json(raw, "here")


def test_two_axes_of_one_name_are_refused(raw: dict[str, Any]) -> None:
    raw["axes"][1]["name"] = "harmless"
    with pytest.raises(RewardError, match="different names"):
        from_json(raw, "here")


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "[" * 100_000, "\xff"])
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "reward.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RewardError) as caught:
        read_manifest(tmp_path)
    assert "reward.json" in str(caught.value)


def test_a_folder_without_one_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="reward export"):
        read_manifest(tmp_path)


def test_identity_is_of_what_scores_depend_on(folder: Path) -> None:
    manifest = manifest_of(folder)
    named = replace(manifest, name="other", licence="MIT", reference="x", revision="9")
    assert named.identity == manifest.identity
    cut = replace(manifest, max_tokens=20)
    scaled = replace(manifest, axes=(replace(manifest.axes[0], spread=0.7), manifest.axes[1]))
    assert len({manifest.identity, cut.identity, scaled.identity}) == 3


def test_an_unknown_axis_is_answered_with_the_nearest(folder: Path) -> None:
    with pytest.raises(RewardError, match="did you mean 'harmless'"):
        manifest_of(folder).axis("harmles")
