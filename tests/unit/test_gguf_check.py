"""Model files that are not what they should be, each with its one clear line."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from stars_local.core.errors import ModelError
from stars_local.llama import gguf_check
from stars_local.llama.child import Child
from stars_local.llama.gguf_check import check_gguf, probe_in_child, probe_with, read_metadata
from stars_local.llama.gguf_types import FILE_TYPES, TENSOR_TYPES
from tests.support.tiny_gguf import ARCHITECTURES, CHATML, vocabulary, write_tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.gguf", "llama")


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    helper = Child()
    yield helper
    helper.close()


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        check_gguf(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


def header_bytes(path: Path) -> int:
    header = read_metadata(path)
    return header.n_needed_bytes - sum(tensor.n_bytes for tensor in header.tensors)


def write_gguf(path: Path, architecture: str, values: dict[str, object], *, tensors: int) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, str(value))
    for i in range(tensors):
        writer.add_tensor(f"tensor.{i}", np.zeros(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_type_tables_are_those_of_the_gguf_package() -> None:
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        assert TENSOR_TYPES[kind.value] == (kind.name, *sizes)
    names = {kind.value: kind.name for kind in gguf.LlamaFileType if kind.name != "GUESSED"}
    prefixes = ("MOSTLY_", "ALL_")
    for number, name in names.items():
        assert FILE_TYPES[number] in [name.removeprefix(prefix) for prefix in prefixes]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_good_file_says_what_it_is(architecture: str, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", architecture, n_ctx=99)
    header = check_gguf(path)
    reader = gguf.GGUFReader(path)
    assert header.architecture == architecture and header.name == f"tiny-{architecture}"
    assert (header.n_ctx_train, header.n_vocab) == (99, len(vocabulary()))
    assert (header.quant, header.chat_template) == ("F32", CHATML)
    assert header.n_needed_bytes == header.n_file_bytes == path.stat().st_size
    assert [(t.name, t.shape, t.n_bytes) for t in header.tensors] == [
        (t.name, tuple(map(int, t.shape)), t.n_bytes) for t in reader.tensors
    ]
    for key, value in header.values.items():
        assert reader.fields[key].contents() == value


def test_a_base_model_has_no_template_and_a_nameless_quant_is_its_commonest_type(
    tmp_path: Path,
) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "llama", chat_template=None)
    assert check_gguf(path).chat_template is None
    plain = write_gguf(tmp_path / "plain.gguf", "llama", {}, tensors=1)
    assert check_gguf(plain).quant == "F32"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "is empty"),
        (b"hello, I am a poem\n" * 9, "is a text file"),
        ("ünïcode".encode() * 99, "is a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"PK\x03\x04\x00\x00", "begins with the bytes 50 4b 03 04"),
        (b"tjgg\x03\x00\x00\x00", "from before GGUF"),
        (b"FUGG\x00\x00\x00\x03", "bytes swapped"),
        (b"GGUF", "cut short"),
        (b"GGUF\x00\x00\x00\x03" + bytes(16), "big-endian"),
        (b"GGUF\x01\x00\x00\x00" + bytes(16), "version 1"),
        (b"GGUF\x07\x00\x00\x00" + bytes(16), "version 7"),
        (b"GGUF\x03\x00\x00\x00" + bytes(16), "no architecture"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2**63, 1), "9223372036854775808 tensors"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1, 2**63), "metadata keys"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**60), "bytes of text"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 9999), "cut short"),
    ],
)
def test_what_is_no_model_is_named(content: bytes, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert wanted in refusal(path)


def test_what_is_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not exist" in refusal(tmp_path / "none.gguf")
    assert "is a directory" in refusal(tmp_path)
    assert "not a regular file" in refusal(Path("/dev/null"))
    assert "cannot be read" in refusal(tmp_path / ("x" * 5000))
    with pytest.raises(ModelError, match="no path"):
        check_gguf(Path("a\0b"))
    path = write_tiny(tmp_path / "tiny.gguf", "llama")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in refusal(path)


def test_every_shorter_file_is_refused(tiny: Path) -> None:
    content = tiny.read_bytes()
    for n_bytes in [*range(1, len(content), len(content) // 97), len(content) - 1]:
        tiny.write_bytes(content[:n_bytes])
        refusal(tiny)


def test_a_file_cut_in_its_data_says_by_how_much(tiny: Path) -> None:
    content = tiny.read_bytes()
    tiny.write_bytes(content[:-10])
    assert f"{len(content) - 10} bytes of {len(content)}" in refusal(tiny)


@pytest.mark.parametrize(
    ("values", "tensors", "wanted"),
    [
        ({}, 0, "a vocabulary only"),
        ({"general.type": "adapter"}, 1, "a LoRA adapter"),
        ({"general.type": "mmproj"}, 1, "a multimodal projector"),
        ({"toy.attention.causal": False}, 1, "an embedding model"),
        ({"general.alignment": 33}, 1, "an alignment of 33"),
        ({"general.alignment": "x"}, 1, "an alignment of 'x'"),
        ({"split.count": 3}, 1, "one of 3 parts"),
    ],
)
def test_files_that_hold_something_else(
    values: dict[str, object], tensors: int, wanted: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "model.gguf", "toy", values, tensors=tensors)
    assert wanted in refusal(path)


def test_a_split_model_needs_all_its_parts_whole(tmp_path: Path) -> None:
    parts = [tmp_path / f"big-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
    for i, part in enumerate(parts):
        write_gguf(part, "toy", {"split.count": 3, "split.no": i}, tensors=int(i > 0))
    assert check_gguf(parts[0]).architecture == "toy"
    assert f"part 2 of 3 of a model: give the first, {parts[0].name}" in refusal(parts[1])
    content = parts[2].read_bytes()
    parts[2].write_bytes(content[:-1])
    with pytest.raises(ModelError, match=r"00003-of-00003\.gguf is cut short"):
        check_gguf(parts[0])
    parts[2].unlink()
    assert f"1 of them are missing ({parts[2].name})" in refusal(parts[0])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_good_files_pass_the_probe(architecture: str, tmp_path: Path, child: Child) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", architecture)
    probe_with(child, path, 30.0, path.stat().st_size)


def test_what_llama_cpp_refuses_is_passed_on_in_its_words(tmp_path: Path, child: Child) -> None:
    unknown = write_gguf(tmp_path / "new.gguf", "not-yet", {}, tensors=1)
    with pytest.raises(ModelError, match=r"unknown model architecture: 'not-yet'") as caught:
        probe_with(child, unknown, 30.0, 1000)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_found(tiny: Path, child: Child) -> None:
    content, start = tiny.read_bytes(), header_bytes(tiny)
    tiny.write_bytes(content[:start] + b"\xff" * (len(content) - start))
    check_gguf(tiny)
    with pytest.raises(ModelError, match="weights are damaged"):
        probe_with(child, tiny, 30.0, len(content))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_300_flipped_header_bytes_never_kill_or_hang_us(
    architecture: str, tmp_path: Path, child: Child
) -> None:
    """Half of the flips hit the metadata and tensor tables, outside of the vocabulary."""
    content = bytearray(write_tiny(tmp_path / "good.gguf", architecture).read_bytes())
    n_header = header_bytes(tmp_path / "good.gguf")
    vocabulary_start = content.index(b"tokenizer.ggml.tokens")
    vocabulary_end = content.index(b"tokenizer.ggml.merges")
    tables = [*range(vocabulary_start), *range(vocabulary_end, n_header)]
    draw = random.Random(f"flips {architecture}")
    path, n_passed, n_refused = tmp_path / "flipped.gguf", 0, 0
    for i in range(300 if architecture == "llama" else 60):
        flipped = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 2, 8))):
            place = draw.choice(tables) if i % 2 else draw.randrange(n_header)
            flipped[place] ^= draw.randrange(1, 256)
        path.write_bytes(flipped)
        try:
            check_gguf(path)
            probe_with(child, path, 10.0, len(flipped))
            n_passed += 1
        except ModelError as error:
            assert "\n" not in str(error)
            n_refused += 1
    assert n_passed > 0 and n_refused > 0


def test_a_file_that_passed_is_remembered_until_it_changes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(gguf_check, "probe_with", lambda _child, path, *_: asked.append(path))
    cache = tmp_path / "deep" / "cache"
    for _ in range(2):
        probe_in_child(tiny, cache_folder=cache)
    assert asked == [tiny]
    write_tiny(tiny, "llama", seed=1)
    probe_in_child(tiny, cache_folder=cache)
    assert len(asked) == 2
    monkeypatch.setattr(gguf_check, "version", lambda _: "0.0.0")
    probe_in_child(tiny, cache_folder=cache)
    assert len(asked) == 3
    assert not [entry for entry in cache.iterdir() if entry.suffix != ".json"]


def test_large_files_are_known_by_place_size_and_time(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(gguf_check, "probe_with", lambda _child, path, *_: asked.append(path))
    monkeypatch.setattr(gguf_check, "_HASHED_BYTES", 0)
    probe_in_child(tiny, cache_folder=tmp_path / "cache")
    probe_in_child(tiny, cache_folder=tmp_path / "cache")
    assert len(asked) == 1
    tiny.touch()
    probe_in_child(tiny, cache_folder=tmp_path / "cache")
    assert len(asked) == 2


def test_a_file_that_failed_is_tried_again(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "new.gguf", "not-yet", {}, tensors=1)
    for _ in range(2):
        with pytest.raises(ModelError, match="unknown model architecture"):
            probe_in_child(path, 30.0, cache_folder=tmp_path / "cache")


def test_a_cache_that_cannot_be_written_to_costs_time_only(tiny: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    probe_in_child(tiny, 30.0, cache_folder=blocked / "cache")
    assert blocked.read_text() == "not a folder"
