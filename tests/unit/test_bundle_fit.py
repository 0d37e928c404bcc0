"""Whom a bundle's wheels are for: told by their names, written down, and asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import sys_tags

from stars_local.bundles import installer, manifest
from stars_local.bundles.create import Source, create_bundle
from stars_local.bundles.fit import Fit, fit_of
from stars_local.bundles.manifest import Item
from stars_local.bundles.reading import verify_bundle
from stars_local.core.errors import DataError, UsageError
from tests.support.tiny_wheel import write_wheel

HERE = Fit((installer.this_python(),), (installer.this_platform(),))


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Nobody watches."""


@pytest.mark.parametrize(
    ("names", "fit"),
    [
        (["a-1-py3-none-any"], Fit((), ())),
        (["a-1-py2.py3-none-any", "no-tags"], Fit((), ())),
        (["a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64"],
         Fit(("cp311",), ("linux-x86_64",))),
        (["a-1-7-cp313-cp313t-musllinux_1_2_aarch64"], Fit(("cp313t",), ("linux-aarch64",))),
        (["a-1-cp39-abi3-macosx_11_0_arm64"], Fit((), ("macosx-arm64",))),
        (["a-1-py3-none-macosx_10_9_universal2"], Fit((), ("macosx-arm64", "macosx-x86_64"))),
        (["a-1-cp311-cp311-win_amd64", "b-1-cp311-none-any"], Fit(("cp311",), ("win-amd64",))),
        (["a-1-cp311-cp311-linux_x86_64", "A-1-cp312-cp312-linux_x86_64",
          "b-1-cp312-cp312-linux_x86_64", "b-1-cp313-cp313-linux_x86_64"],
         Fit(("cp312",), ("linux-x86_64",))),
        (["a-1-cp311-cp311-linux_x86_64", "a-1-py3-none-any"], Fit((), ())),
        ([], None),
    ],
)  # fmt: skip
def test_whom_wheels_fit(names: list[str], fit: Fit | None) -> None:
    assert fit_of(f"{name}.whl" for name in names) == fit
    assert fit_of(f"{name}.whl" for name in reversed(names)) == fit


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [("cp311-cp311-any", "cp312-cp312-any", "Python"),
     ("py3-none-linux_x86_64", "py3-none-linux_aarch64", "platform")],
)  # fmt: skip
def test_wheels_that_fit_no_one_machine_are_refused(
    one: str, other: str, what: str, tmp_path: Path
) -> None:
    sources = {
        f"wheels/{name}": Source(tmp_path / "x", None)
        for name in (f"a-1-{one}.whl", f"b-1-{other}.whl")
    }
    (tmp_path / "x").touch()
    with pytest.raises(UsageError, match=f"fit no one {what}: those of b are for"):
        create_bundle(tmp_path / "b.tar", sources, "1", quiet)


def test_every_tag_of_this_machine_fits_this_machine() -> None:
    """What pip would take here is never refused by the installer."""
    for tag in sys_tags():
        fit = fit_of([f"a-1-{tag}.whl"])
        assert fit is not None
        if tag.abi != "abi3" and not tag.interpreter.startswith("py"):
            assert fit.pythons == HERE.pythons
        assert tag.platform == "any" or set(HERE.platforms) <= set(fit.platforms), tag


WHEEL = Item("wheels/a-1-cp311-cp311-linux_x86_64.whl", 1, "0" * 64, None)
FIT = {"pythons": ["cp311"], "platforms": ["linux-x86_64"]}


def listing(change: dict[str, Any], *items: Item) -> bytes:
    return json.dumps(json.loads(manifest.to_bytes(items, "1")) | change).encode()


def test_a_manifest_says_whom_the_wheels_are_for() -> None:
    assert json.loads(manifest.to_bytes([WHEEL], "1"))["wheels_for"] == FIT
    found = manifest.from_bytes(manifest.to_bytes([WHEEL], "1"), "b")
    assert found.wheels_for == Fit(("cp311",), ("linux-x86_64",))
    assert str(found.wheels_for) == "cp311 on linux-x86_64"


@pytest.mark.parametrize(
    "told",
    [None, [], "cp311", {}, {**FIT, "more": []}, {**FIT, "pythons": "cp311"},
     {**FIT, "pythons": ["cp311", "cp311"]}, {**FIT, "pythons": ["cp312", "cp311"]},
     {**FIT, "platforms": [1]}, {**FIT, "platforms": ["\x1b[2J"]}, {**FIT, "platforms": [""]}],
)  # fmt: skip
def test_a_word_about_wheels_that_is_none_is_refused(told: object) -> None:
    with pytest.raises(DataError, match=r"b: not a manifest of a bundle: .*wheels_for"):
        manifest.from_bytes(listing({"wheels_for": told}, WHEEL), "b")


def test_only_wheels_have_it_and_older_manifests_lack_it() -> None:
    prompts = Item("prompts/p", 1, "0" * 64, None)
    with pytest.raises(DataError, match="wheels_for"):
        manifest.from_bytes(listing({"wheels_for": FIT}, prompts), "b")
    with pytest.raises(DataError, match="other keys"):
        manifest.from_bytes(listing({"schema": 1}, WHEEL), "b")
    old = json.loads(listing({"schema": 1}, WHEEL))
    del old["wheels_for"]
    found = manifest.from_bytes(json.dumps(old).encode(), "b")
    assert found == manifest.Contents([WHEEL], None)
    old["schema"] = 2
    with pytest.raises(DataError, match="other keys"):
        manifest.from_bytes(json.dumps(old).encode(), "b")


def bundle_for(folder: Path, tags: str) -> Path:
    ours = write_wheel(folder, "stars_local", "1", {"a.py": b""})
    named = ours.rename(folder / f"stars_local-1-{tags}.whl")
    sources = {f"wheels/{named.name}": Source(named, None)}
    create_bundle(folder / "b.tar", sources, "1", quiet)
    return folder / "b.tar"


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [("cp27-cp27-any", "cp27 on any"), ("py3-none-os2_vax", "any on os2_vax"),
     ("cp27-cp27-win_arm64", "cp27 on win-arm64")],
)  # fmt: skip
def test_another_machine_is_refused_before_anything_is_made(
    tags: str,
    wanted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "stars_local.bundles.installer.venv.create", lambda *_, **__: pytest.fail("made")
    )
    bundle = bundle_for(tmp_path, tags)
    assert installer.main([str(bundle), str(tmp_path / "env")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the wheels are for {wanted}, and this is {HERE}: run install.py by" in line
    assert verify_bundle(bundle, quiet).wheels_for is not None


def test_a_machine_like_the_other_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def create(environment: str, *, with_pip: bool) -> None:
        made.append(environment)
        raise OSError("far enough")

    monkeypatch.setattr("stars_local.bundles.installer.venv.create", create)
    kind = installer.this_python()
    linux = sys.platform == "linux"
    tags = f"{kind}-{kind}-{HERE.platforms[0].replace('-', '_') if linux else 'any'}"
    assert installer.main([str(bundle_for(tmp_path, tags)), "env"]) == 1
    assert made == ["env"]
