"""Every option of a run, defined once: name, default, unit, range, help.

A value may come from a flag, the environment, a file or the default (`stars_local.config`);
all of them are read by `read_value`, so that they mean the same and fail alike. Names are the
authors': `segment_size`, `max_attempts`, `alpha`, `beta`, `reward_threshold`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stars_local.core.boundaries import BoundaryKind
from stars_local.core.errors import UsageError
from stars_local.core.methods import Force
from stars_local.core.overlap import OVERLAPS
from stars_local.core.thresholds import Schedule, ThresholdFrom

AUTO = "auto"
MAX_INT = 2**31 - 1  # what the native library takes
MAX_WIDTH = 254  # a context holds 256 sequences: the trunk, a kept loser, and the attempts


class Kind(StrEnum):
    """What an option's values are."""

    INTEGER = "a whole number"
    NUMBER = "a number"
    TEXT = "text"
    LIST = "text that is not empty, as often as wanted"
    WIDTH = "'auto' or a whole number"


@dataclass(frozen=True, slots=True)
class Option:
    """How the values of one option are read, checked and explained.

    low and high are the ends of the range, low left out of it where `above` is set. `finite`:
    infinity is refused. unset: what None means; empty where the option always has a value.
    """

    kind: Kind
    panel: str
    help: str
    metavar: str
    low: float | None = None
    high: float | None = None
    above: bool = False
    finite: bool = True
    choices: tuple[str, ...] = ()
    unset: str = ""

    @property
    def wanted(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        words = str(self.kind)
        if self.low is not None:
            words += f" {'above' if self.above else 'of at least'} {self.low}"
        if self.high is not None:
            words += f" and at most {self.high}"
        return words


_MODELS, _METHOD, _SAMPLING = "Models", "Method", "Sampling"
_LIMITS, _TEXT, _MACHINE = "Limits", "Text", "Machine"
_INT, _NUM, _STR, _LIST = Kind.INTEGER, Kind.NUMBER, Kind.TEXT, Kind.LIST


def _option(default: Any, kind: Kind, panel: str, help: str, metavar: str, **rest: Any) -> Any:
    return field(default=default, metadata={"option": Option(kind, panel, help, metavar, **rest)})


def _choice(default: StrEnum | str, panel: str, help: str, choices: Any, **rest: Any) -> Any:
    names = tuple(str(choice) for choice in choices)
    return _option(str(default), _STR, panel, help, "|".join(names), choices=names, **rest)


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a run. None means what the option's `unset` says."""

    model: str = _option(
        "SmolLM2-135M-Instruct.Q4_1", _STR, _MODELS, "Language model: a known name or a GGUF file.",
        "NAME|FILE",
    )  # fmt: skip
    lora: str | None = _option(
        None, _STR, _MODELS, "LoRA adapter over the language model: a GGUF file.", "FILE",
        unset="none",
    )  # fmt: skip
    reward: str = _option(
        "hh-minilm", _STR, _MODELS,
        "Reward model: a shipped name, a folder, or weighted axes.", "NAME|DIR|AXIS=WEIGHT,...",
    )  # fmt: skip
    gate: tuple[str, ...] = _option(
        (), _LIST, _MODELS, "A bound on an axis that every accepted segment must meet.",
        "AXIS>=VALUE",
    )  # fmt: skip
    method: str = _option(
        "stars", _STR, _METHOD, "Decoding method, with parameters of its own after a colon.",
        "NAME[:PARAM=VALUE,...]",
    )  # fmt: skip
    segment_size: int = _option(
        32, _INT, _METHOD, "Tokens per segment.", "TOKENS", low=1, high=MAX_INT
    )
    max_attempts: int = _option(
        20, _INT, _METHOD, "Attempts at a segment before one is forced.", "N", low=1
    )
    alpha: float | None = _option(
        None, _NUM, _METHOD, "Where the threshold begins between r(x, empty) and the target.",
        "SHARE", low=0, high=1, unset="from the calibration",
    )  # fmt: skip
    beta: float | None = _option(
        None, _NUM, _METHOD, "Softness of acceptance, in units of the reward; 0 is a hard rule.",
        "REWARD", low=0, unset="from the calibration",
    )  # fmt: skip
    reward_threshold: float | None = _option(
        None, _NUM, _METHOD, "Target reward r*; -inf accepts every segment.", "REWARD",
        finite=False, unset="from the calibration",
    )  # fmt: skip
    schedule: str = _choice(Schedule.RAMP, _METHOD, "How the threshold moves.", Schedule)
    threshold_from: str = _choice(
        ThresholdFrom.ZERO, _METHOD,
        "Where r* is measured from: prompt makes it an offset from r(x, empty).", ThresholdFrom,
    )  # fmt: skip
    force: str = _choice(
        Force.BEST, _METHOD, "Which attempt is taken where none was accepted.", Force
    )
    boundary: str | None = _option(
        None, _STR, _METHOD, "Where segments end.", "|".join(BoundaryKind),
        choices=tuple(map(str, BoundaryKind)),
        unset="the method's own: entropy for cards, else fixed",
    )  # fmt: skip
    n: int | None = _option(
        None, _INT, _METHOD, "Answers drawn by best-of-n.", "N", low=1, unset="the method's own"
    )
    k: int | None = _option(
        None, _INT, _METHOD, "Candidates per segment of blockwise.", "N", low=1,
        unset="the method's own",
    )  # fmt: skip
    price: float | None = _option(
        None, _NUM, _METHOD, "Price of a token, in units of the reward, for stopping.", "REWARD",
        low=0, unset="the method's own",
    )  # fmt: skip
    budget: float | None = _option(
        None, _NUM, _METHOD, "Judged tokens per kept token wanted of adaptive or stopping.",
        "RATIO", low=1,
        unset="the method's own",
    )  # fmt: skip
    width: int | str = _option(
        AUTO, Kind.WIDTH, _METHOD, "Attempts drawn in one batch.", "N|auto", low=1, high=MAX_WIDTH
    )
    overlap: str = _choice(
        AUTO, _METHOD, "Decode ahead while scores are out; auto where devices differ.", OVERLAPS
    )
    temperature: float = _option(
        1.0, _NUM, _SAMPLING, "Scale of the token distribution; 0 is greedy.", "T", low=0
    )
    top_k: int = _option(
        40, _INT, _SAMPLING, "Tokens kept by rank; 0 is off.", "N", low=0, high=MAX_INT
    )
    top_p: float = _option(
        1.0, _NUM, _SAMPLING, "Share of probability kept; 1 is off.", "P", low=0, above=True, high=1
    )
    min_p: float = _option(
        0.0, _NUM, _SAMPLING, "Least probability, as a share of the highest; 0 is off.", "P",
        low=0, high=1,
    )  # fmt: skip
    repeat_penalty: float = _option(
        1.0, _NUM, _SAMPLING, "Divides the logits of recent tokens; 1 is off.", "X", low=0,
        above=True,
    )  # fmt: skip
    seed: int | None = _option(
        None, _INT, _SAMPLING, "Seed of all randomness; 0 is a seed.", "N", low=0, high=2**63 - 1,
        unset="drawn at random and recorded; 0 in eval and sweep",
    )  # fmt: skip
    max_new_tokens: int = _option(256, _INT, _LIMITS, "Tokens in the answer.", "TOKENS", low=1)
    max_decoded_tokens: int | None = _option(
        None, _INT, _LIMITS, "Tokens sampled over all attempts.", "TOKENS", low=1, unset="no limit"
    )
    max_seconds: float | None = _option(
        None, _NUM, _LIMITS, "Seconds an answer may take.", "SECONDS", low=0, above=True,
        unset="no limit",
    )  # fmt: skip
    stop: tuple[str, ...] = _option(
        (), _LIST, _TEXT, "A string that ends the answer and is not part of it.", "TEXT"
    )
    system: str | None = _option(
        None, _STR, _TEXT, "System message.", "TEXT", unset="the template's own"
    )
    grammar: str | None = _option(
        None, _STR, _TEXT, "GBNF grammar that the answer follows: a file, or the rules.",
        "FILE|GBNF", unset="none",
    )  # fmt: skip
    json_schema: str | None = _option(
        None, _STR, _TEXT, "JSON schema that the answer follows: a file, or the schema.",
        "FILE|JSON", unset="none",
    )  # fmt: skip
    n_ctx: int | None = _option(
        None, _INT, _MACHINE, "Tokens of context.", "TOKENS", low=1, high=MAX_INT,
        unset="the model's own, up to 4096",
    )  # fmt: skip
    threads: int | None = _option(
        None, _INT, _MACHINE, "Threads for computing.", "N", low=1, high=1024,
        unset="every usable core",
    )  # fmt: skip
    gpu_layers: int = _option(
        -1, _INT, _MACHINE, "Layers on the GPU; -1 is all, where the build has one.", "N", low=-1,
        high=MAX_INT,
    )  # fmt: skip
    provider: str = _choice(
        AUTO, _MACHINE, "What runs the reward model.", (AUTO, "cpu", "cuda", "coreml")
    )


_MAX_SHOWN = 200
OPTIONS: dict[str, Option] = {
    each.name: each.metadata["option"] for each in dataclasses.fields(Settings)
}


def read_value(name: str, raw: object, where: str) -> Any:
    """Read and check one value of option `name`; `where` names its place in an error.

    Text, as flags and environment variables have it, and the values of TOML and YAML are read
    alike. Raises UsageError with the value and what is wanted.
    """
    option = OPTIONS[name]
    try:
        if option.kind is Kind.LIST:
            return _read_list(raw)
        value = _READERS[option.kind](raw)
        _check(option, value)
    except ValueError:
        shown = _shown(raw)
        raise UsageError(f"{where} is {shown}: give {option.wanted}") from None
    return value


def _shown(raw: object) -> str:
    """A value in an error; of a list or a table only what it is, for it may hold itself."""
    if isinstance(raw, list | tuple) and all(isinstance(item, str) for item in raw):
        return f"{raw[:20]!r}"[:_MAX_SHOWN]
    if isinstance(raw, list | tuple | dict | set):
        return f"a {type(raw).__name__}"
    try:
        return f"{raw!r}"[:_MAX_SHOWN] if isinstance(raw, str) else f"{raw}"[:40]
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number without end"


def _read_integer(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise ValueError
    return int(raw)


def _read_number(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise ValueError
    try:
        value = float(raw)
    except OverflowError:
        raise ValueError from None
    if math.isnan(value):
        raise ValueError
    return value


def _read_text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError
    raw.encode()  # an argument that is not UTF-8 arrives as surrogates, which no text holds
    return raw


def _read_width(raw: object) -> int | str:
    return AUTO if raw == AUTO else _read_integer(raw)


def _read_list(raw: object) -> tuple[str, ...]:
    items = [raw] if isinstance(raw, str) else raw
    if not isinstance(items, list | tuple) or "" in items:
        raise ValueError
    return tuple(_read_text(item) for item in items)


_READERS = {
    Kind.INTEGER: _read_integer,
    Kind.NUMBER: _read_number,
    Kind.TEXT: _read_text,
    Kind.WIDTH: _read_width,
}


def _check(option: Option, value: Any) -> None:
    if option.choices and value not in option.choices:
        raise ValueError
    if not isinstance(value, int | float):
        return
    if option.low is not None and (value <= option.low if option.above else value < option.low):
        raise ValueError
    if option.high is not None and value > option.high:
        raise ValueError
    if option.finite and isinstance(value, float) and math.isinf(value):
        raise ValueError
