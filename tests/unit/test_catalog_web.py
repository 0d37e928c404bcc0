"""Downloads: resumed to the byte, never mixed, never under their name before they are right."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stars_local.catalog import from_web
from stars_local.catalog.from_web import fetch_from_web
from stars_local.catalog.pull import pull
from stars_local.catalog.sources import WebSource
from stars_local.core.errors import ModelError, NetworkError
from tests.support.file_server import Served, serving
from tests.support.tiny_gguf import write_tiny

CONTENT = random.Random(5).randbytes(300_000)


def ignore(stage: str, done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(Served(CONTENT)) as server:
        yield server


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "llama").read_bytes()


def fetch(served: Served, part: Path) -> str | None:
    return fetch_from_web(WebSource(f"{served.address}/a.gguf", False), part, ignore, pause_s=0)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 80_000), max_size=4), ranges=st.booleans())
def test_broken_connections_are_taken_up_again(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], ranges: bool
) -> None:
    part = tmp_path_factory.mktemp("web") / "a.part"
    with serving(Served(CONTENT, break_after=list(cuts), ranges=ranges)) as served:
        fetch(served, part)
    assert part.read_bytes() == CONTENT
    starts = [int(each.get("Range", "bytes=0-")[6:-1]) for each in served.asked]
    assert starts[0] == 0
    if ranges:
        assert starts == [sum(cuts[:n]) for n in range(len(cuts) + 1)], "each byte came once"


def test_a_later_call_goes_on_where_an_earlier_one_stopped(served: Served, tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    served.break_after = [1000, 0, 0, 0, 0]
    with pytest.raises(NetworkError, match="go on from 1000 bytes"):
        fetch(served, part)
    served.asked.clear()
    fetch(served, part)
    assert served.asked[0]["Range"] == "bytes=1000-"
    assert part.read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_fetched_anew(served: Served, tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    served.break_after = [1000, 0, 0, 0, 0]
    with pytest.raises(NetworkError):
        fetch(served, part)
    served.content, served.tag = CONTENT[::-1], '"v2"'
    fetch(served, part)
    assert part.read_bytes() == CONTENT[::-1]


def test_bytes_of_one_version_never_stand_under_the_tag_of_another(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "a.part"
    served.break_after = [1000, 0, 0, 0, 0]
    with pytest.raises(NetworkError):
        fetch(served, part)
    served.content, served.tag = CONTENT[::-1], '"v2"'
    write_note = from_web._write_note

    def killed_after(*arguments: Any) -> None:
        write_note(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(from_web, "_write_note", killed_after)
    with pytest.raises(KeyboardInterrupt):
        fetch(served, part)
    monkeypatch.setattr(from_web, "_write_note", write_note)
    fetch(served, part)
    assert part.read_bytes() == CONTENT[::-1]


def test_without_a_strong_tag_nothing_is_resumed(served: Served, tmp_path: Path) -> None:
    served.tag = 'W/"v1"'
    served.break_after = [1000]
    fetch(served, tmp_path / "a.part")
    assert all("Range" not in each for each in served.asked)
    assert (tmp_path / "a.part").read_bytes() == CONTENT


def test_a_finished_part_is_not_asked_for_again(served: Served, tmp_path: Path) -> None:
    fetch(served, tmp_path / "a.part")
    fetch(served, tmp_path / "a.part")
    assert len(served.asked) == 1


@pytest.mark.parametrize(
    ("status", "n_asked", "hint"), [(404, 1, "check the address"), (403, 1, "HF_TOKEN")]
)
def test_refusals_are_not_repeated(
    served: Served, tmp_path: Path, status: int, n_asked: int, hint: str
) -> None:
    served.status = status
    with pytest.raises(NetworkError, match=f"{status}.*{hint}"):
        fetch(served, tmp_path / "a.part")
    assert len(served.asked) == n_asked


def test_an_overloaded_server_is_tried_five_times(served: Served, tmp_path: Path) -> None:
    served.status = 503
    with pytest.raises(NetworkError, match="5 tries"):
        fetch(served, tmp_path / "a.part")
    assert len(served.asked) == from_web.MAX_TRIES


def test_no_room_is_said_before_the_first_byte(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stars_local.catalog.space.SPARE_BYTES", 1 << 60)
    with pytest.raises(ModelError, match=r"MiB free, a\.gguf needs"):
        fetch(served, tmp_path / "a.part")
    assert not (tmp_path / "a.part").exists()


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf: bytes
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_ENDPOINT", served.address)
    served.content = gguf
    served.redirect_sha256 = hashlib.sha256(gguf).hexdigest()
    (path,) = pull("hf:org/repo/sub/a.gguf@v2", tmp_path, ignore)
    assert path == tmp_path / "a.gguf"
    assert [each["path"] for each in served.asked] == [
        "/org/repo/resolve/v2/sub/a.gguf",
        "/store/org/repo/resolve/v2/sub/a.gguf",
    ]
    assert [each.get("Authorization") for each in served.asked] == ["Bearer secret", None]


def test_a_token_never_goes_to_an_ordinary_address(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    fetch(served, tmp_path / "a.part")
    assert "Authorization" not in served.asked[0]


@pytest.mark.parametrize("who", ["hub", "person"])
def test_other_bytes_than_promised_leave_nothing(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf: bytes, who: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", served.address)
    served.content = gguf
    wrong = hashlib.sha256(b"something else").hexdigest()
    served.redirect_sha256 = wrong if who == "hub" else None
    with pytest.raises(ModelError, match=wrong[:12]):
        pull("hf:o/r/a.gguf", tmp_path, ignore, sha256=None if who == "hub" else wrong)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_what_is_no_model_never_gets_the_name(served: Served, tmp_path: Path) -> None:
    served.content = b"<!doctype html><p>log in first"
    with pytest.raises(ModelError, match="a web page"):
        pull(f"{served.address}/a.gguf", tmp_path, ignore)
    assert not list(tmp_path.rglob("a.gguf*.part*"))
    assert not (tmp_path / "a.gguf").exists()


def test_a_broken_pull_leaves_only_a_part_and_the_next_ends_it(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf: bytes
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    served.content = gguf
    served.break_after = [5000, 0, 0, 0, 0]
    with pytest.raises(NetworkError):
        pull(f"{served.address}/a.gguf", tmp_path, ignore)
    assert not (tmp_path / "a.gguf").exists()
    assert (tmp_path / "downloads" / "a.gguf.part").stat().st_size == 5000
    (path,) = pull(f"{served.address}/a.gguf", tmp_path, ignore)
    assert path.read_bytes() == gguf
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/a.gguf", "file:///etc/passwd", "data:,x"])
def test_redirects_lead_to_web_addresses_only(served: Served, tmp_path: Path, where: str) -> None:
    served.redirect_to = where
    with pytest.raises(NetworkError):
        fetch(served, tmp_path / "a.part")
    assert len(served.asked) == 1, "and are not tried again"
    assert not (tmp_path / "a.part").exists()


@pytest.mark.parametrize("where", [f"http://{'a' * 64}.org/a.gguf", "http://127.0.0.1:port/a.gguf"])
def test_addresses_that_are_none_are_not_tried_again(
    served: Served, tmp_path: Path, where: str
) -> None:
    served.redirect_to = where
    with pytest.raises(NetworkError, match="not an address"):
        fetch(served, tmp_path / "a.part")
    assert len(served.asked) == 1
    with pytest.raises(NetworkError, match="not an address"):
        fetch_from_web(WebSource(where, False), tmp_path / "a.part", ignore, pause_s=0)


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "x", "²"])
def test_a_length_that_is_none_is_as_if_unsaid(served: Served, tmp_path: Path, length: str) -> None:
    served.length = length
    fetch(served, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == CONTENT
