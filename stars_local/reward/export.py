"""From a trained network to a folder that decoding reads, with proof that they agree.

    torch -> ONNX float32 -> parity against torch -> smaller weights -> parity against float32
    -> mean and spread on reference answers -> independence of batches -> golden scores

Everything is built in a temporary folder; what was there before is replaced at the very end,
the manifest last.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from stars_local.core.errors import RewardError, UsageError
from stars_local.core.records import Prompt
from stars_local.reward.accuracy_on_pairs import PairReport, pair_report
from stars_local.reward.architectures import AxesOf, Source, load_source
from stars_local.reward.check import independence
from stars_local.reward.export_manifest import (
    CARD,
    CHAT_TEMPLATE,
    GOLDEN,
    MODEL,
    TOKENIZER,
    ExportOptions,
    bare_manifest,
    data_files,
)
from stars_local.reward.files import write_atomically
from stars_local.reward.golden import golden_json, golden_texts
from stars_local.reward.manifest import MANIFEST_NAME, Manifest, write_manifest
from stars_local.reward.onnx_model import OnnxRewardModel
from stars_local.reward.pairs import Pair
from stars_local.reward.parity import (
    MAX_ACCURACY_LOSS,
    MAX_FP32_DRIFT,
    MIN_RANK_CORRELATION,
    rank_correlation,
    torch_drift,
    varied_batches,
)
from stars_local.reward.session import INPUTS, OUTPUT, Session
from stars_local.reward.sources import sha256_of
from stars_local.reward.weights import save, shrink

PRECISIONS = ("fp32", "fp16", "int8")
_OPSET = 18
_LONGEST_COMPARED = 512  # tokens: beyond it a large decoder takes minutes a text


@dataclass(frozen=True)
class Exported:
    """What an export proved: see `stars_local.reward.parity`.

    fp32_drift: against torch, raw outputs. rank_correlation: of the smaller weights' scores with
    fp32's, by axis, on the reference and golden texts. accuracy_change: of pair accuracy, in
    shares, by the name of the labelled pairs. batch_deviation: in spreads.
    """

    manifest: Manifest
    fp32_drift: float
    rank_correlation: Mapping[str, float]
    accuracy_change: Mapping[str, float]
    batch_deviation: float
    reports: Mapping[str, PairReport] = field(default_factory=dict)


def export_reward(
    source_folder: Path,
    out: Path,
    options: ExportOptions,
    reference: tuple[str, Sequence[tuple[Prompt, str]]],
    pairs: Mapping[str, Sequence[Pair]],
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Export a source into the folder `out`.

    reference: what the texts are, in words, and the texts that mean and spread are measured on.
    pairs: labelled pairs by a name, each of one axis, for the accuracy in the manifest and for
    the bound on its loss. Raises RewardError, leaving `out` as it was, where the source cannot
    be read or what was exported strays from it.
    """
    if options.precision not in PRECISIONS:
        raise UsageError(
            f"--precision {options.precision!r}: expected one of {', '.join(PRECISIONS)}"
        )
    source = load_source(source_folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        made = _build(source, Path(scratch), options, reference, pairs, say)
        _move(Path(scratch) / options.precision, out, made.manifest)
    return made


def _build(
    source: Source,
    scratch: Path,
    options: ExportOptions,
    reference: tuple[str, Sequence[tuple[Prompt, str]]],
    pairs: Mapping[str, Sequence[Pair]],
    say: Callable[[str], None],
) -> Exported:
    say("export: writing the graph")
    whole = scratch / "fp32"
    whole.mkdir()
    columns = options.axes if options.axes is not None else source.axes
    n_outputs = _n_outputs(source)
    wrong = [c for _, plus, minus in columns for c in (*plus, *minus) if c >= n_outputs]
    if wrong:
        raise UsageError(f"--axes names column {wrong[0]}, the network has {n_outputs} from 0 on")
    network = AxesOf(source.network, n_outputs, columns).eval()
    _to_onnx(network, source, whole / MODEL)
    names = [name for name, _, _ in columns]
    bare = bare_manifest(source, options, names, whole)
    drift = _parity_with_torch(network, whole, bare, say)
    texts = [*golden_texts(), *reference[1]]
    folder = whole
    correlation: dict[str, float] = {}
    change: dict[str, float] = {}
    manifest = _standardised(whole, bare, reference)
    reports = _reports(whole, manifest, pairs)
    for name, report in reports.items():
        say(f"export: {name}: fp32 {_words(report)}")
    if options.precision != "fp32":
        folder = scratch / options.precision
        folder.mkdir()
        _shrunk(whole, folder, options.precision)
        small = replace(
            bare, sha256=sha256_of(folder / MODEL), data_files=data_files(folder),
            precision=options.precision,
        )  # fmt: skip
        correlation = _check_ranks(whole, folder, manifest, small, texts)
        say(f"export: {options.precision} keeps the order, {min(correlation.values()):.5f}")
        small = _standardised(folder, small, reference)
        before, reports = reports, _reports(folder, small, pairs)
        for name, report in reports.items():
            change[name] = report.whole.accuracy - before[name].whole.accuracy
            say(f"export: {name}: {options.precision} {_words(report)}")
            if change[name] < -MAX_ACCURACY_LOSS:
                raise RewardError(
                    f"{options.precision} loses {-100 * change[name]:.2f} points of accuracy on "
                    f"{name}, allowed {100 * MAX_ACCURACY_LOSS:g}: use --precision fp16 or fp32"
                )
        manifest = small
    return _finish(folder, manifest, drift, correlation, change, reports, source, say)


def _finish(
    folder: Path,
    manifest: Manifest,
    drift: float,
    correlation: Mapping[str, float],
    change: Mapping[str, float],
    reports: Mapping[str, PairReport],
    source: Source,
    say: Callable[[str], None],
) -> Exported:
    """Independence of batches, golden scores, card, figures and the revision."""
    model = _opened(folder, manifest)
    found = independence(model, [model.encode(*text) for text in golden_texts()])
    manifest = replace(manifest, batch_invariant=found.invariant)
    say(f"export: alone, batched and padded scores differ by {found.worst:.1e} spreads at most")
    scores = model.score(golden_texts())
    rewards = [reward.axes for reward in scores.rewards]
    write_atomically(folder / GOLDEN, golden_json(golden_texts(), rewards))
    if source.card is not None:
        write_atomically(folder / CARD, source.card)
        manifest = replace(manifest, training_card=CARD)
    manifest = replace(
        manifest,
        accuracy=tuple(report.measured(name) for name, report in reports.items()),
        revision=manifest.identity[:12],
    )
    write_manifest(folder, manifest)
    return Exported(manifest, drift, correlation, change, found.worst, reports)


def _to_onnx(network: AxesOf, source: Source, path: Path) -> None:
    """Trace to ONNX with free batch and length.

    The tracing exporter, because it needs no package beyond torch and keeps both axes free for
    every architecture here; its example has unequal lengths so that no mask folds away.
    """
    ids = torch.full((2, 9), source.pad_id, dtype=torch.int64)
    ids[0] = torch.arange(9)
    ids[1, :5] = torch.arange(5)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    free = {0: "batch", 1: "length"}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (ids, mask),
                str(path),
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                dynamic_axes={INPUTS[0]: free, INPUTS[1]: free, OUTPUT: {0: "batch"}},
                opset_version=_OPSET,
                dynamo=False,
            )
    except Exception as error:  # whatever tracing foreign code makes it raise
        raise RewardError(
            f"torch cannot export this network: {' '.join(str(error).split())[:300]}"
        ) from error


def _n_outputs(source: Source) -> int:
    ids = torch.ones((1, 3), dtype=torch.int64)
    with torch.no_grad():
        return int(source.network(ids, torch.ones_like(ids)).shape[1])


def _parity_with_torch(
    network: AxesOf, folder: Path, manifest: Manifest, say: Callable[[str], None]
) -> float:
    model = _opened(folder, manifest)
    rows = [model.encode(*text) for text in golden_texts()]
    vocabulary = max(max(row) for row in rows) + 1
    batches = varied_batches(rows, vocabulary, min(manifest.max_tokens, _LONGEST_COMPARED))
    session = Session(folder / MODEL, "cpu", None)
    drift = torch_drift(network, session.run, batches, manifest.pad_id, manifest.max_tokens)
    say(f"export: ONNX and torch differ by {drift:.1e} at most")
    if not drift <= MAX_FP32_DRIFT:
        raise RewardError(
            f"the exported network strays from torch by {drift:.2g}, allowed {MAX_FP32_DRIFT:g}: "
            "this architecture cannot be exported faithfully"
        )
    return drift


def _shrunk(whole: Path, folder: Path, precision: str) -> None:
    import onnx

    model = onnx.load(str(whole / MODEL))
    shrink(model, precision)
    save(model, folder / MODEL)
    for name in (TOKENIZER, CHAT_TEMPLATE):
        if (whole / name).is_file():
            shutil.copyfile(whole / name, folder / name)


def _standardised(
    folder: Path, manifest: Manifest, reference: tuple[str, Sequence[tuple[Prompt, str]]]
) -> Manifest:
    """The manifest with mean and spread of each axis on the reference texts."""
    model = _opened(folder, manifest)
    values, _ = model.score_ids([model.encode(*text) for text in reference[1]])
    axes = []
    for axis, column in zip(manifest.axes, values.T, strict=True):
        if not np.isfinite(column).all() or not column.std() > 0:
            raise RewardError(
                f"axis {axis.name} does not vary, or is not finite, on {len(column)} reference "
                "texts: it cannot steer anything"
            )
        mean, spread = float(column.mean()), float(column.std(ddof=1))
        axes.append(replace(axis, mean=round(mean, 6), spread=round(spread, 6)))
    return replace(manifest, axes=tuple(axes), reference=reference[0])


def _check_ranks(
    whole: Path,
    folder: Path,
    manifest: Manifest,
    small: Manifest,
    texts: Sequence[tuple[Prompt, str]],
) -> dict[str, float]:
    left, right = _opened(whole, manifest), _opened(folder, small)
    rows = [left.encode(*text) for text in texts]
    found = {}
    for axis, a, b in zip(
        manifest.axes, left.score_ids(rows)[0].T, right.score_ids(rows)[0].T, strict=True
    ):
        found[axis.name] = rank_correlation(a, b)
        if not found[axis.name] > MIN_RANK_CORRELATION:
            raise RewardError(
                f"{small.precision} changes the order on axis {axis.name}: rank correlation "
                f"{found[axis.name]:.4f}, needed over {MIN_RANK_CORRELATION}: use --precision fp32"
            )
    return found


def _reports(
    folder: Path, manifest: Manifest, pairs: Mapping[str, Sequence[Pair]]
) -> dict[str, PairReport]:
    model = _opened(folder, manifest)
    return {name: pair_report(model, some, some[0].axis) for name, some in pairs.items()}


def _words(report: PairReport) -> str:
    at = ", ".join(f"{each.accuracy:.4f} at {n}" for n, each in report.at_tokens.items())
    return f"{report.whole.accuracy:.4f} whole, {at} tokens"


def _opened(folder: Path, manifest: Manifest) -> OnnxRewardModel:
    write_manifest(folder, manifest)
    return OnnxRewardModel(folder, provider="cpu", trusted=True)


def _move(made: Path, out: Path, manifest: Manifest) -> None:
    """Put the files in place: the manifest, which names and hashes the others, comes last."""
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for path in sorted(made.iterdir(), key=lambda path: path.name == MANIFEST_NAME):
        path.replace(out / path.name)
