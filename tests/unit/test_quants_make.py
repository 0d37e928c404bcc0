"""Making quantised files: what is written, kept, refused."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import gguf
import numpy as np
import pytest

from stars_local.core.errors import ModelError, UsageError
from stars_local.llama.gguf_check import check_gguf
from stars_local.llama.quantise_main import read_imatrix
from stars_local.quants.listing import list_file
from stars_local.quants.make import Made, make, manifest_of, parse_types
from tests.support.tiny_gguf import write_tiny

pytestmark = pytest.mark.slow

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("source") / "tiny.F32.gguf", "llama")


def run(source: Path, types: tuple[str, ...], out: Path, imatrix: Path | None = None) -> list[Made]:
    return list(make(source, types, out, imatrix=imatrix, n_threads=1, on_progress=lambda *_: None))


def test_files_hold_what_their_listing_says_and_are_kept(source: Path, tmp_path: Path) -> None:
    made = run(source, ("F16", "Q8_0"), tmp_path)
    assert [each.listing.path.name for each in made] == ["tiny.F16.gguf", "tiny.Q8_0.gguf"]
    assert [each.kept for each in made] == [False, False]
    half, eight = (each.listing for each in made)
    assert half.n_tensors.keys() == {"F16", "F32"}
    assert 16 < half.bpw < 20 and 8.5 < eight.bpw < half.bpw
    assert half.n_weights == eight.n_weights == list_file(source).n_weights
    before = eight.path.stat().st_mtime_ns
    again = run(source, ("F16", "Q8_0"), tmp_path)
    assert [each.kept for each in again] == [True, True]
    assert eight.path.stat().st_mtime_ns == before
    assert {path.suffix for path in tmp_path.iterdir()} == {".gguf", ".json"}, "nothing is left"


def test_a_changed_file_is_made_again_and_a_strange_one_is_left(
    source: Path, tmp_path: Path
) -> None:
    (made,) = run(source, ("Q8_0",), tmp_path)
    whole = made.listing.path.read_bytes()
    made.listing.path.write_bytes(whole[:-1])
    (again,) = run(source, ("Q8_0",), tmp_path)
    assert not again.kept and made.listing.path.read_bytes() == whole
    manifest_of(made.listing.path).unlink()
    with pytest.raises(UsageError, match="not made by this command"):
        run(source, ("Q8_0",), tmp_path)


def test_k_quants_fall_back_on_narrow_rows_and_the_listing_says_so(
    source: Path, tmp_path: Path
) -> None:
    (made,) = run(source, ("Q4_K_M",), tmp_path)
    assert made.listing.n_fallbacks > 0
    assert "Q4_K" not in made.listing.n_tensors
    assert "fell back" in made.listing.as_text()


def test_a_quantised_source_goes_through_f16(source: Path, tmp_path: Path) -> None:
    (eight,) = run(source, ("Q8_0",), tmp_path)
    stages: list[str] = []
    out = tmp_path / "again"
    list(
        make(
            eight.listing.path,
            ("Q4_0",),
            out,
            n_threads=1,
            on_progress=lambda stage, *_: stages.append(stage),
        )
    )
    assert set(stages) == {"to F16", "Q4_0"}
    assert sorted(path.name for path in out.iterdir()) == [
        "tiny.Q4_0.gguf",
        "tiny.Q4_0.gguf.quant.json",
    ]


def test_types_that_nobody_knows_are_answered_with_those_that_exist() -> None:
    assert parse_types("Q8_0, Q6_K,Q8_0") == ("Q8_0", "Q6_K")
    with pytest.raises(UsageError, match=r"'Q9_Z' is no type.*Q4_K_M"):
        parse_types("Q8_0,Q9_Z")
    with pytest.raises(UsageError, match="give some"):
        parse_types(" , ")


def test_a_full_disk_is_found_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(ModelError, match="1 MiB free, 2 files need up to"):
        run(source, ("F16", "Q8_0"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_split_source_is_refused(tmp_path: Path) -> None:
    for part in (1, 2):
        path = tmp_path / f"two-0000{part}-of-00002.gguf"
        write_tiny(path, "llama")
        _mark_split(path, part - 1)
    first = tmp_path / "two-00001-of-00002.gguf"
    assert check_gguf(first).integer("split.count") == 2
    with pytest.raises(UsageError, match=r"one of 2 parts.*--merge"):
        run(first, ("Q8_0",), tmp_path / "out")


def test_an_imatrix_changes_the_file_and_its_manifest(source: Path, tmp_path: Path) -> None:
    (plain,) = run(source, ("Q4_0",), tmp_path / "plain")
    path = _write_imatrix(tmp_path / "imatrix.gguf", source)
    (weighed,) = run(source, ("Q4_0",), tmp_path / "weighed", path)
    assert weighed.listing.path.read_bytes() != plain.listing.path.read_bytes()
    (other,) = run(source, ("Q4_0",), tmp_path / "plain", path)
    assert not other.kept


def test_an_imatrix_is_sums_over_counts(source: Path, tmp_path: Path) -> None:
    weights = read_imatrix(_write_imatrix(tmp_path / "imatrix.gguf", source))
    assert all(np.allclose(each, np.arange(1, each.size + 1) ** 2) for each in weights.values())
    with pytest.raises(ValueError, match="no importance matrix"):
        read_imatrix(source)


def test_a_file_that_is_no_imatrix_is_quoted(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no importance matrix"):
        run(source, ("Q4_0",), tmp_path, source)


def _write_imatrix(path: Path, source: Path) -> Path:
    writer = gguf.GGUFWriter(path, "")
    for tensor in check_gguf(source).tensors:
        if len(tensor.shape) == 2:
            squares = np.arange(1, tensor.shape[0] + 1, dtype=np.float32) ** 2
            writer.add_tensor(f"{tensor.name}.in_sum2", 4 * squares.reshape(1, -1))
            writer.add_tensor(f"{tensor.name}.counts", np.full((1, 1), 4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _mark_split(path: Path, number: int) -> None:
    """Write the file again with the keys of a part."""
    reader = gguf.GGUFReader(path)
    tensors = [(tensor.name, np.array(tensor.data)) for tensor in reader.tensors]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_uint16("split.no", number)
    writer.add_uint16("split.count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for name, data in tensors:
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
