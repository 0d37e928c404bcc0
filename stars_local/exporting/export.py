"""From a trained network to a folder that decoding reads, with proof that they agree.

    torch -> ONNX float32 -> parity against torch -> smaller weights -> parity against float32
    -> mean and spread on reference answers -> independence of batches -> golden scores

Everything is built in a temporary folder; what was there before is replaced at the very end,
the manifest last.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from stars_local.core.errors import RewardError, UsageError
from stars_local.core.files import sha256_of, write_atomically
from stars_local.core.records import Prompt
from stars_local.exporting.architectures import AxesOf, Source, load_source
from stars_local.exporting.export_manifest import (
    CARD,
    CHAT_TEMPLATE,
    GOLDEN,
    MODEL,
    TOKENIZER,
    ExportOptions,
    bare_manifest,
    data_files,
)
from stars_local.exporting.graph import to_onnx, to_onnx_with_past
from stars_local.exporting.parity import (
    MAX_ACCURACY_LOSS,
    MAX_FP32_DRIFT,
    MIN_RANK_CORRELATION,
    past_drift,
    rank_correlation,
    torch_drift,
    varied_batches,
)
from stars_local.exporting.weights import save, shrink
from stars_local.preferences.pairs import Pair
from stars_local.reward.accuracy_on_pairs import PairReport, pair_report
from stars_local.reward.check import independence
from stars_local.reward.golden import golden_json, golden_texts
from stars_local.reward.manifest import (
    MANIFEST_NAME,
    PRECISIONS,
    Kind,
    Manifest,
    write_manifest,
)
from stars_local.reward.onnx_model import OnnxRewardModel
from stars_local.reward.session import Session
from stars_local.reward.templates import Render

_LONGEST_COMPARED = 512  # tokens: beyond it a large decoder takes minutes a text


@dataclass(frozen=True)
class Exported:
    """What an export proved: see `stars_local.exporting.parity`.

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
    render: Render | None = None,
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
        made = _Export(source, options, reference, pairs, say, render).build(Path(scratch))
        _move(Path(scratch) / options.precision, out, made.manifest)
    return made


@dataclass(frozen=True)
class _Export:
    """One export; the parameters of `export_reward` with the source read."""

    source: Source
    options: ExportOptions
    reference: tuple[str, Sequence[tuple[Prompt, str]]]
    pairs: Mapping[str, Sequence[Pair]]
    say: Callable[[str], None]
    render: Render | None

    def build(self, scratch: Path) -> Exported:
        """Make the folder `scratch/precision`, complete."""
        options = self.options
        self.say("export: writing the graph")
        whole = scratch / "fp32"
        whole.mkdir()
        columns = options.axes if options.axes is not None else self.source.axes
        n_outputs = _n_outputs(self.source)
        wrong = [c for _, plus, minus in columns for c in (*plus, *minus) if c >= n_outputs]
        if wrong:
            raise UsageError(
                f"--axes names column {wrong[0]}, the network has {n_outputs} from 0 on"
            )
        network = AxesOf(self.source.network, n_outputs, columns).eval()
        names = [name for name, _, _ in columns]
        bare, drift = self._faithful(network, names, whole)
        manifest = self._standardised(whole, bare)
        reports = self._reports(whole, manifest)
        if options.precision == "fp32":
            return self._finish(whole, manifest, drift, {}, {}, reports)
        folder = scratch / options.precision
        folder.mkdir()
        _shrunk(whole, folder, options.precision)
        small = replace(
            bare,
            sha256=sha256_of(folder / MODEL),
            data_files=data_files(folder),
            precision=options.precision,
        )
        correlation = self._rank_correlation(whole, folder, manifest, small)
        small = self._standardised(folder, small)
        after = self._reports(folder, small)
        change = {
            name: after[name].whole.accuracy - report.whole.accuracy
            for name, report in reports.items()
        }
        for name, points in change.items():
            if points < -MAX_ACCURACY_LOSS:
                raise RewardError(
                    f"{options.precision} loses {-100 * points:.2f} points of accuracy on {name}, "
                    f"allowed {100 * MAX_ACCURACY_LOSS:g}: use --precision fp16 or fp32"
                )
        return self._finish(folder, small, drift, correlation, change, after)

    def _finish(
        self,
        folder: Path,
        manifest: Manifest,
        drift: float,
        correlation: Mapping[str, float],
        change: Mapping[str, float],
        reports: Mapping[str, PairReport],
    ) -> Exported:
        """Independence of batches, golden scores, card, figures and the revision."""
        model = self._opened(folder, manifest)
        found = independence(model, [model.encode(*text) for text in golden_texts()])
        self.say(
            f"export: alone, batched and padded scores differ by {found.worst:.1e} spreads at most"
        )
        rewards = [reward.axes for reward in model.score(golden_texts()).rewards]
        write_atomically(folder / GOLDEN, golden_json(golden_texts(), rewards))
        if self.source.card is not None:
            write_atomically(folder / CARD, self.source.card)
        manifest = replace(
            manifest,
            batch_invariant=found.invariant,
            training_card=None if self.source.card is None else CARD,
            accuracy=tuple(report.measured(name) for name, report in reports.items()),
        )
        manifest = replace(manifest, revision=manifest.identity[:12])
        write_manifest(folder, manifest)
        return Exported(manifest, drift, correlation, change, found.worst, reports)

    def _faithful(
        self, network: AxesOf, names: Sequence[str], folder: Path
    ) -> tuple[Manifest, float]:
        """The graph that agrees with torch, its bare manifest and its drift.

        A decoder's takes past keys and values, unless that is refused or strays from torch.
        """
        pad_id = self.source.pad_id
        if self.options.past is True and self.source.kind is Kind.ENCODER:
            raise UsageError("past keys and values are for decoders, this network is an encoder")
        if self.options.past is not False and self.source.kind is not Kind.ENCODER:
            try:
                to_onnx_with_past(network, pad_id, folder / MODEL)
                bare = bare_manifest(self.source, self.options, names, folder)
                bare = replace(bare, past=True)
                return bare, self._parity_with_torch(network, folder, bare)
            except RewardError as error:
                if self.options.past is True:
                    raise
                self.say(f"export: without past keys and values, for with them {error}")
        to_onnx(network, pad_id, folder / MODEL)
        bare = bare_manifest(self.source, self.options, names, folder)
        return bare, self._parity_with_torch(network, folder, bare)

    def _parity_with_torch(self, network: AxesOf, folder: Path, manifest: Manifest) -> float:
        model = self._opened(folder, manifest)
        rows = [model.encode(*text) for text in golden_texts()]
        vocabulary = max(max(row) for row in rows) + 1
        batches = varied_batches(rows, vocabulary, min(manifest.max_tokens, _LONGEST_COMPARED))
        session = Session(folder / MODEL, "cpu", None)
        drift = torch_drift(network, session.run, batches, manifest.pad_id, manifest.max_tokens)
        if manifest.past:
            longest = manifest.max_tokens
            split = [row[:longest] for batch in batches for row in batch]
            drift = max(drift, past_drift(network, session, split))
        self.say(f"export: ONNX and torch differ by {drift:.1e} at most")
        if not drift <= MAX_FP32_DRIFT:
            raise RewardError(
                f"the exported network strays from torch by {drift:.2g}, allowed "
                f"{MAX_FP32_DRIFT:g}: this architecture cannot be exported faithfully"
            )
        return drift

    def _standardised(self, folder: Path, manifest: Manifest) -> Manifest:
        """The manifest with mean and spread of each axis on the reference texts."""
        words, texts = self.reference
        model = self._opened(folder, manifest)
        values, _ = model.score_ids([model.encode(*text) for text in texts])
        axes = []
        for axis, column in zip(manifest.axes, values.T, strict=True):
            if not np.isfinite(column).all() or not column.std() > 0:
                raise RewardError(
                    f"axis {axis.name} does not vary, or is not finite, on {len(column)} reference "
                    "texts: it cannot steer anything"
                )
            mean, spread = float(column.mean()), float(column.std(ddof=1))
            axes.append(replace(axis, mean=round(mean, 6), spread=float(f"{spread:.6g}")))
        return replace(manifest, axes=tuple(axes), reference=words)

    def _rank_correlation(
        self, whole: Path, folder: Path, manifest: Manifest, small: Manifest
    ) -> dict[str, float]:
        left, right = self._opened(whole, manifest), self._opened(folder, small)
        rows = [left.encode(*text) for text in (*golden_texts(), *self.reference[1])]
        before, after = left.score_ids(rows)[0].T, right.score_ids(rows)[0].T
        found = {}
        for axis, a, b in zip(manifest.axes, before, after, strict=True):
            found[axis.name] = rank_correlation(a, b)
            if not found[axis.name] > MIN_RANK_CORRELATION:
                raise RewardError(
                    f"{small.precision} changes the order on axis {axis.name}: rank correlation "
                    f"{found[axis.name]:.4f}, needed over {MIN_RANK_CORRELATION}: use --precision "
                    "fp32"
                )
        self.say(f"export: {small.precision} keeps the order, {min(found.values()):.5f}")
        return found

    def _reports(self, folder: Path, manifest: Manifest) -> dict[str, PairReport]:
        model = self._opened(folder, manifest)
        found = {}
        for name, some in self.pairs.items():
            found[name] = pair_report(model, some, some[0].axis)
            self.say(f"export: {name}: {manifest.precision} {_words(found[name])}")
        return found

    def _opened(self, folder: Path, manifest: Manifest) -> OnnxRewardModel:
        write_manifest(folder, manifest)
        return OnnxRewardModel(folder, provider="cpu", trusted=True, render=self.render)


def _n_outputs(source: Source) -> int:
    ids = torch.ones((1, 3), dtype=torch.int64)
    with torch.no_grad():
        return int(source.network(ids, torch.ones_like(ids)).shape[1])


def _shrunk(whole: Path, folder: Path, precision: str) -> None:
    import onnx

    model = onnx.load(str(whole / MODEL))
    shrink(model, precision)
    save(model, folder / MODEL)
    for name in (TOKENIZER, CHAT_TEMPLATE):
        if (whole / name).is_file():
            shutil.copyfile(whole / name, folder / name)


def _words(report: PairReport) -> str:
    at = ", ".join(f"{each.accuracy:.4f} at {n}" for n, each in report.at_tokens.items())
    return f"{report.whole.accuracy:.4f} whole, {at} tokens"


def _move(made: Path, out: Path, manifest: Manifest) -> None:
    """Put the files in place: the manifest, which names and hashes the others, comes last."""
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    for path in sorted(made.iterdir(), key=lambda path: path.name == MANIFEST_NAME):
        path.replace(out / path.name)
