"""The calibration file: thresholds that mean something for one pair of models.

alpha, beta and r_star are in units of one reward model, seen through one base model's prompts
template and one segment size. A file therefore names all five, and is refused for any other.
It is JSON, written atomically, and holds no code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from stars_local.core.errors import CalibrationError
from stars_local.core.files import write_atomically
from stars_local.core.strict_json import parse_json, read_object

SCHEMA = 1
_MANY = 1e6  # positions; a file may say anything
_STEEPEST = 4.0  # power of the variance: that of a mean over all tokens has 2
_POSITION = {"segment", "n_positions", "mean", "between_variance", "within_variance"}


@dataclass(frozen=True, slots=True)
class CalibrationKey:
    """What a calibration belongs to; hashes are SHA-256 in hex."""

    base_model_sha256: str
    reward_sha256: str
    axis: str
    template_sha256: str
    segment_size: int

    @property
    def file_name(self) -> str:
        """The name under which folders keep it."""
        joined = "\n".join(str(value) for value in dataclasses.astuple(self))
        return hashlib.sha256(joined.encode()).hexdigest()[:24] + ".json"


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured or predicted cost; `attempts_ci95` by bootstrap over prompts."""

    attempts: float
    attempts_ci95: tuple[float, float]
    forced_share: float
    n_prompts: int
    n_segments: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds with the evidence behind them.

    alpha in [0, 1]; beta = beta_in_spreads * spread, spread being the standard deviation of the
    rewards of plain answers; reward_threshold is r_star. `quantiles` are thresholds by segment
    index for the `quantile` schedule. by_position: a row a segment index with the mean reward,
    its variance between prompts and within one. quick: made from few prompts, unchecked.
    """

    key: CalibrationKey
    alpha: float
    beta: float
    reward_threshold: float
    quantiles: tuple[float, ...]
    spread: float
    within_spread: float
    max_new_tokens: int
    max_attempts: int
    wanted: str
    quick: bool
    predicted: Measured
    checked: Measured | None
    by_position: tuple[dict[str, float], ...]
    made: dict[str, str]

    @property
    def spreads(self) -> tuple[float, ...]:
        """The standard deviation of rewards at one position, by segment index; empty where none
        was seen.

        A power law of the segment's number through the variances that were measured, which from
        few prompts are off by a half: rewards of longer texts move less. The last segment does
        not count where the answer's length cut it short.
        """
        cut = len(self.by_position) * self.key.segment_size > self.max_new_tokens
        rows = self.by_position[: -1 if cut and len(self.by_position) > 1 else None]
        seen = [
            (math.log(i), math.log(row["within_variance"]), min(row["n_positions"], _MANY))
            for i, row in enumerate(rows, start=1)
            if row["within_variance"] > 0.0 and row["n_positions"] > 0.0
        ]
        if not seen:
            return ()
        weight = sum(n for _, _, n in seen)
        x_mean = sum(n * x for x, _, n in seen) / weight
        y_mean = sum(n * y for _, y, n in seen) / weight
        across = sum(n * (x - x_mean) ** 2 for x, _, n in seen)
        along = sum(n * (x - x_mean) * (y - y_mean) for x, y, n in seen)
        power = min(max(along / across, -_STEEPEST), _STEEPEST) if across > 0.0 else 0.0
        return tuple(
            math.exp((y_mean + power * (math.log(i) - x_mean)) / 2.0)
            for i in range(1, len(rows) + 1)
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}


def from_json(data: object, name: str) -> Calibration:
    """Check and read the JSON object of a calibration; errors name the field."""
    if not isinstance(data, dict):
        raise CalibrationError(
            f"{name}: a calibration is a JSON object, found {type(data).__name__}"
        )
    if data.get("schema") != SCHEMA:
        raise CalibrationError(
            f"{name}: schema is {ascii(data.get('schema'))[:40]}, this version reads {SCHEMA}: "
            "calibrate again"
        )
    fields = {key: value for key, value in data.items() if key != "schema"}
    try:
        found = cast(Calibration, read_object(Calibration, fields, name, "", CalibrationError))
    except CalibrationError as error:
        raise CalibrationError(f"{error}: calibrate again") from error
    least = {"key.segment_size": found.key.segment_size, "max_new_tokens": found.max_new_tokens}
    for field, number in {**least, "max_attempts": found.max_attempts}.items():
        if number < 1:
            raise CalibrationError(f"{name}: {field} is {number}, must be at least 1")
    if not 0.0 <= found.alpha <= 1.0:
        raise CalibrationError(f"{name}: alpha is {found.alpha}, must lie in [0, 1]")
    sizes = {"beta": found.beta, "spread": found.spread, "within_spread": found.within_spread}
    for place, row in enumerate(found.by_position):
        if set(row) != _POSITION:
            raise CalibrationError(
                f"{name}: by_position[{place}] has other keys than {', '.join(sorted(_POSITION))}: "
                "calibrate again"
            )
        sizes |= {f"by_position[{place}].{key}": row[key] for key in _POSITION - {"mean"}}
    for field, size in sizes.items():
        if size < 0.0:
            raise CalibrationError(f"{name}: {field} is {size}, must not be negative")
    return found


def read_calibration(path: Path) -> Calibration:
    """Read one file; raises CalibrationError with its name."""
    try:
        return from_json(parse_json(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{path}: cannot read the calibration: {error}") from error


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write atomically: the file is whole or not there."""
    text = json.dumps(calibration.to_json(), indent=1, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise CalibrationError(f"{path}: cannot write the calibration: {error}") from error


def require_key(calibration: Calibration, key: CalibrationKey, name: str) -> None:
    """Refuse a calibration that was made for something else, and say for what."""
    for field in dataclasses.fields(CalibrationKey):
        has, wants = getattr(calibration.key, field.name), getattr(key, field.name)
        if has != wants:
            raise CalibrationError(
                f"{name} was made for another {field.name.removesuffix('_sha256')}: "
                f"it says {_short(has)}, this run has {_short(wants)}; "
                "run 'stars-local calibrate' for this pair"
            )


def find_calibration(key: CalibrationKey, folders: Iterable[Path]) -> Calibration | None:
    """The calibration of this key in the first folder that has one, None where none has."""
    for folder in folders:
        path = folder / key.file_name
        if path.is_file():
            calibration = read_calibration(path)
            require_key(calibration, key, str(path))
            return calibration
    return None


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
