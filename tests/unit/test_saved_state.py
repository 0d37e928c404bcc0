"""Saved KV states belong to one file, adapters and build; digests and caches on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stars_local.core.errors import ModelError
from stars_local.llama.digest import file_sha256, file_stamp, model_sha256
from stars_local.llama.disk_cache import DiskCache
from stars_local.llama.saved_state import Origin, pack, unpack

MINE = Origin("a" * 64, "{}", "build 1")
SAVED = pack(MINE, [1, 2, 3], b"native bytes")


def test_a_state_comes_back_whole() -> None:
    assert unpack(SAVED, MINE) == ([1, 2, 3], b"native bytes")


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Origin("b" * 64, "{}", "build 1"), "sha256"),
        (Origin("a" * 64, '{"x": 1}', "build 1"), "adapters"),
        (Origin("a" * 64, "{}", "build 2"), "build"),
    ],
)
def test_a_state_of_another_origin_is_refused_by_name(other: Origin, named: str) -> None:
    with pytest.raises(ModelError, match=f"the saved state has {named}"):
        unpack(SAVED, other)


def test_every_cut_and_every_flipped_byte_is_refused() -> None:
    for size in range(len(SAVED)):
        with pytest.raises(ModelError):
            unpack(SAVED[:size], MINE)
    for place in range(len(SAVED)):
        damaged = bytearray(SAVED)
        damaged[place] ^= 0x55
        try:
            token_ids, state = unpack(bytes(damaged), MINE)
        except ModelError:
            continue
        # only the token ids are not covered by the digest: they are checked against the model
        assert state == b"native bytes"
        assert token_ids != [1, 2, 3]


@pytest.mark.parametrize("header", [[], {"origin": 3}, {"origin": {}, "token_ids": [1]}, "x"])
def test_a_header_of_another_shape_is_refused(header: object) -> None:
    raw = json.dumps(header).encode()
    data = SAVED[: SAVED.index(b"\n") + 1] + len(raw).to_bytes(4, "big") + raw
    with pytest.raises(ModelError):
        unpack(data, MINE)


def test_a_digest_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = file_sha256(path)
    assert file_sha256(path) == first
    path.write_bytes(b"other")
    assert file_sha256(path) != first


def test_a_model_in_parts_goes_by_all_of_them(tmp_path: Path) -> None:
    parts = [tmp_path / name for name in ("one", "two")]
    for part in parts:
        part.write_bytes(part.name.encode())
    assert model_sha256(parts[:1]) == file_sha256(parts[0])
    found = {model_sha256(parts), model_sha256(parts[::-1]), *map(file_sha256, parts)}
    parts[1].write_bytes(b"new")
    assert len(found | {model_sha256(parts)}) == 5


def test_a_digest_is_only_computed_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    file_sha256(path)
    DiskCache("sha256").put(str(path.resolve()), [*file_stamp(path), "remembered"])
    assert file_sha256(path) == "remembered"


def test_a_cache_that_cannot_be_used_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    cache = DiskCache("facts")
    cache.put("key", 1)
    assert cache.get("key") is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = DiskCache("facts")
    cache.put("key", 1)
    cache.put("other", [2])
    assert (cache.get("key"), cache.get("other")) == (1, [2])
    for damaged in ("{damaged", "[" * 100_000, '{"key": ' + "1" * 5000 + "}", "[1]"):
        (tmp_path / "stars-local" / "facts.json").write_text(damaged)
        assert cache.get("key") is None
