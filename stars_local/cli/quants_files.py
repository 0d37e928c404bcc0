"""The files that `quants` commands work on: given, or made from a source now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stars_local.quants.make import Made


def make_types(
    source: Path, types: Sequence[str], out: Path, imatrix: Path | None = None, threads: int = 0
) -> list[Made]:
    """Make what is missing of these types, with progress; a source that lost something already
    is said loudly."""
    from stars_local.catalog.same_file import the_file_that_came
    from stars_local.cli.progress import stages
    from stars_local.cli.terminal import neutralise
    from stars_local.llama.gguf_check import check_gguf
    from stars_local.quants.make import is_quantised, make

    if is_quantised(check_gguf(the_file_that_came(source))):
        print(
            f"stars-local: WARNING: {neutralise(source.name)} is quantised already: every file is "
            "made from it through F16, and none is better than it",
            file=sys.stderr,
        )
    with stages(after_s=1.0) as advance:
        return list(
            make(source, types, out, imatrix=imatrix, n_threads=threads, on_progress=advance)
        )


def check_alike(reference: Path, files: Sequence[Path]) -> None:
    """Refuse what headers tell before anything is loaded: UsageError for a file in parts, or for
    files of another architecture or number of tokens than the first. ModelError for one that is
    not what came into the models folder."""
    from stars_local.catalog.same_file import the_file_that_came
    from stars_local.core.errors import UsageError
    from stars_local.llama.gguf_check import check_gguf

    ours = check_gguf(reference)
    for path in (reference, *files):
        header = check_gguf(the_file_that_came(path))
        if header.integer("split.count") > 1:
            raise UsageError(
                f"{path} is one part of several: join them with 'llama-gguf-split --merge' first"
            )
        if header.architecture != ours.architecture:
            raise UsageError(
                f"{path} has the architecture {header.architecture!r}, {reference} "
                f"{ours.architecture!r}: give files of one model"
            )
        if header.n_vocab != ours.n_vocab:
            raise UsageError(
                f"{path} has a vocabulary of {header.n_vocab} tokens, {reference} of "
                f"{ours.n_vocab}: give files of one model"
            )
