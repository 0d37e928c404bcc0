"""The reward model that runs: a manifest, a tokenizer and a network in ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stars_local.core.errors import DataError, RewardError, RewardValueError
from stars_local.core.files import sha256_of
from stars_local.core.records import Prompt, Reward, RewardInfo, Scores
from stars_local.reward.external_data import external_files
from stars_local.reward.golden import TOLERANCE, read_golden
from stars_local.reward.manifest import Kind, Manifest, read_manifest
from stars_local.reward.prefixes import PrefixCache
from stars_local.reward.probe import probe
from stars_local.reward.session import Session
from stars_local.reward.templates import Render, TextEncoder, pad_right

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A batch holds rows of similar length, so that little of it is padding, and few enough tokens
# for its activations to stay small.
_MAX_BATCH_TOKENS = 8192
_MIN_FILLED = 0.75
_FREE_TOKENS = 512  # attention over as many needs less memory than the rest


class OnnxRewardModel:
    """Scores cumulative responses with the model in `folder`; threads may share it.

    Rewards are in spreads: (sign * output - mean) / spread, by axis. `axis` is the one that
    `Reward.value` takes, by default the manifest's first. provider: auto, cpu, cuda or coreml;
    what runs is `self.provider`. threads: None leaves the number to ONNX Runtime. trusted: the
    files came with the program and need no trial in a child process. render: what renders the
    chat template of a model that has its own (`stars_local.compose.render_chat`). Raises
    RewardError if any file is missing, damaged or does not fit the others, or if the provider
    gives other scores than the golden ones.
    """

    def __init__(
        self,
        folder: Path,
        *,
        axis: str | None = None,
        provider: str = "auto",
        threads: int | None = None,
        trusted: bool = False,
        render: Render | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest = read_manifest(folder)
        self._steered = manifest.axes[0].name if axis is None else manifest.axis(axis).name
        digests = _verified(folder, manifest)
        model_file = folder / manifest.model_file
        if not trusted:
            probe(model_file, folder / manifest.tokenizer_file, digests)
        self._texts = TextEncoder(folder, manifest, render)
        self._session = Session(model_file, provider, threads)
        self._batch_invariant = manifest.batch_invariant
        self._check_fit()
        self._prefixes = PrefixCache(self._session, manifest.pad_id) if manifest.past else None
        if self.provider != "cpu":
            self._check_provider(provider, threads)

    @property
    def info(self) -> RewardInfo:
        """Identity; `sha256` is that of the ONNX file."""
        manifest = self.manifest
        names = tuple(axis.name for axis in manifest.axes)
        return RewardInfo(
            manifest.name,
            manifest.revision,
            manifest.sha256,
            self._steered,
            names,
            manifest.max_tokens,
        )

    @property
    def batch_invariant(self) -> bool:
        """Whether texts are scored in batches; otherwise one at a time, unpadded."""
        return self._batch_invariant

    @property
    def provider(self) -> str:
        """What runs the network: cpu, cuda or coreml."""
        return self._session.provider

    def forbid_batches(self) -> None:
        """From now on score one text at a time: what a failed check of batches asks for."""
        self._batch_invariant = False

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Scores:
        """Score (prompt, response so far) pairs; every axis of the model is in `Reward.axes`.

        Texts over the token limit are cut as `stars_local.reward.templates` says.
        """
        rows = [self.encode(prompt, response) for prompt, response in items]
        if self._prefixes is None:
            values, n_batches = self.score_ids(rows)
        else:
            values, n_batches = self._score_on_prefixes(self._prefixes, items, rows)
        rewards = []
        for (prompt, response), row in zip(items, values, strict=True):
            axes = {axis.name: float(x) for axis, x in zip(self.manifest.axes, row, strict=True)}
            for name, value in axes.items():
                if not math.isfinite(value):
                    raise RewardValueError(
                        f"the reward model {self.manifest.name} gave {value} on {name} for a "
                        f"response of {len(response)} characters to prompt {prompt.id!r}: "
                        "export it as fp32, or use another model"
                    )
            rewards.append(Reward(axes[self._steered], axes))
        return Scores(tuple(rewards), n_batches, tuple(map(len, rows)))

    def encode(
        self, prompt: Prompt, response: str, *, max_response_tokens: int | None = None
    ) -> list[int]:
        """The token ids of a text, with at most so many first tokens of the response."""
        return self._texts.encode(prompt, response, max_response_tokens=max_response_tokens)

    def score_ids(self, rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.float64], int]:
        """Rewards by axis of shape (len(rows), n_axes), and the number of runs they took."""
        import numpy as np

        values = np.empty((len(rows), len(self.manifest.axes)))
        n_batches = 0
        for places in self._batches(rows):
            values[places] = self.run_batch([rows[place] for place in places])
            n_batches += 1
        return values, n_batches

    def run_batch(self, rows: Sequence[Sequence[int]], extra: int = 0) -> NDArray[np.float64]:
        """Rewards by axis of one run of the network over rows padded to the longest + extra."""
        return self._scaled(self._session.run(*pad_right(rows, self.manifest.pad_id, extra)))

    def _score_on_prefixes(
        self,
        prefixes: PrefixCache,
        items: Sequence[tuple[Prompt, str]],
        rows: Sequence[Sequence[int]],
    ) -> tuple[NDArray[np.float64], int]:
        """As `score_ids`, each prompt's texts on the cache of what they have in common."""
        import numpy as np

        values = np.empty((len(rows), len(self.manifest.axes)))
        groups: dict[Hashable, list[int]] = {}
        for place, (prompt, _) in enumerate(items):
            key = (prompt.text, tuple((m.role, m.content) for m in prompt.messages))
            groups.setdefault(key, []).append(place)
        n_batches = 0
        for group, places in groups.items():
            outputs, n_runs = prefixes.score(
                group, [rows[place] for place in places], self._texts.n_tail, self._batches
            )
            values[places] = self._scaled(outputs)
            n_batches += n_runs
        return values, n_batches

    def _scaled(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        import numpy as np

        axes = self.manifest.axes
        if any(axis.output >= outputs.shape[1] for axis in axes):
            raise self._misfit(f"the network has {outputs.shape[1]} outputs")
        raw = outputs[:, [axis.output for axis in axes]].astype(np.float64)
        signs = np.array([axis.sign for axis in axes])
        means = np.array([axis.mean for axis in axes])
        spreads = np.array([axis.spread for axis in axes])
        with np.errstate(over="ignore", invalid="ignore"):  # `score` refuses what is not finite
            scaled: NDArray[np.float64] = (signs * raw - means) / spreads
        return scaled

    def _batches(self, rows: Sequence[Sequence[int]], n_past: int = 0) -> Iterator[list[int]]:
        if not self._batch_invariant:
            yield from ([place] for place in range(len(rows)))
            return
        batch: list[int] = []
        for place in sorted(range(len(rows)), key=lambda place: (-len(rows[place]), place)):
            if batch:
                longest = len(rows[batch[0]])
                seen = max(_FREE_TOKENS, n_past + longest)  # by each token: attention's memory
                full = (len(batch) + 1) * longest * seen > _MAX_BATCH_TOKENS * _FREE_TOKENS
                if full or len(rows[place]) < _MIN_FILLED * longest:
                    yield batch
                    batch = []
            batch.append(place)
        if batch:
            yield batch

    def _check_fit(self) -> None:
        """Run the tokenizer's largest id, and in encoders the longest text of the limit."""
        if self.manifest.past != self._session.takes_past:
            raise self._misfit(f"past {str(self.manifest.past).lower()}")
        n_outputs = self._session.n_outputs
        for i, axis in enumerate(self.manifest.axes):
            if n_outputs is not None and axis.output >= n_outputs:
                raise self._misfit(f"axes[{i}].output {axis.output}")
        largest, template = self._texts.max_id, self.manifest.template
        written = {"pad_id": self.manifest.pad_id, "cls_id": template.cls_id}
        for field, value in (written | {"sep_id": template.sep_id}).items():
            if value is not None and value > largest:
                raise self._misfit(f"{field} {value}")
        try:
            self.run_batch([[largest]])
        except RewardError as error:
            raise self._misfit(f"token id {largest} of the tokenizer") from error
        if self.manifest.kind is not Kind.ENCODER:
            return  # decoders have no table of positions that could be too short
        try:
            self.run_batch([[self.manifest.pad_id] * self.manifest.max_tokens])
        except RewardError as error:
            raise self._misfit(f"max_tokens {self.manifest.max_tokens}") from error

    def _misfit(self, what: str) -> RewardError:
        return RewardError(
            f"{self.folder}: {what} does not fit {self.manifest.model_file} and reward.json: "
            "the files come from different models, export it again"
        )

    def _check_provider(self, asked: str, threads: int | None) -> None:
        """Golden scores on what is not the CPU; with `auto` a wrong one falls back to it."""
        off = golden_deviation(self)
        if off <= TOLERANCE:
            return
        if asked != "auto":
            raise RewardError(
                f"the provider {self.provider} is off the golden scores of {self.manifest.name} "
                f"by {off:.2g} spreads, allowed {TOLERANCE:g}: use --provider cpu"
            )
        self._session = Session(self.folder / self.manifest.model_file, "cpu", threads)
        if self._prefixes is not None:
            self._prefixes = PrefixCache(self._session, self.manifest.pad_id)


def golden_deviation(model: OnnxRewardModel) -> float:
    """The largest distance from the golden scores, in spreads, each text scored alone."""
    worst = 0.0
    names = [axis.name for axis in model.manifest.axes]
    for item in read_golden(model.folder / model.manifest.golden_file):
        found = model.run_batch([model.encode(item.prompt, item.response)])[0]
        for name, value in zip(names, found, strict=True):
            if name not in item.rewards:
                raise RewardError(f"{model.folder}: the golden scores lack the axis {name!r}")
            off = abs(float(value) - item.rewards[name])
            worst = max(worst, off if math.isfinite(off) else math.inf)
    return worst


def _verified(folder: Path, manifest: Manifest) -> list[str]:
    """The SHA-256 of every file that scoring needs, after comparing it with the manifest's.
    RewardError too for a network that reads a file which the manifest does not list."""
    wanted = {
        manifest.model_file: manifest.sha256,
        manifest.tokenizer_file: manifest.tokenizer_sha256,
        **manifest.data_files,
    }
    for name, digest in wanted.items():
        try:
            found = sha256_of(folder / name)
        except DataError as error:
            raise RewardError(str(error)) from error
        if found != digest:
            raise RewardError(
                f"{folder / name} has sha256 {found[:12]}…, reward.json says {digest[:12]}…: "
                "the file was changed or cut short, fetch or export it again"
            )
    model_file = folder / manifest.model_file
    unlisted = sorted(external_files(model_file) - manifest.data_files.keys())
    if unlisted:
        raise RewardError(
            f"{model_file} reads its weights from {unlisted[0][:60]!r}, which data_files in "
            "reward.json does not list: nobody knows its right content, export it again"
        )
    return list(wanted.values())
