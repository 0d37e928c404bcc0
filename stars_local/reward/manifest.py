"""`reward.json`: everything about a reward model that its ONNX file cannot say.

The file stands beside the ONNX file and the tokenizer, and is read strictly: a field that is
missing, unknown or of another type is an error that names it and the nearest right one.

    value of an axis = (sign * output - mean) / spread

so rewards are in units of their own spread on reference responses, 0 being the average one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from stars_local.core.errors import RewardError
from stars_local.core.files import write_atomically
from stars_local.core.strict_json import nearest, parse_json, read_object

MANIFEST_NAME = "reward.json"
SCHEMA = 1
PRECISIONS = ("fp32", "fp16", "int8")
MAX_TOKENS = 1 << 20
_END_OF_IDS = 1 << 31  # of token ids, output columns and counts: they become native integers
_AXIS_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Kind(StrEnum):
    """What the network is: where in the text its reward is read."""

    ENCODER = "encoder"
    DECODER = "decoder"
    PROCESS = "process"


class Style(StrEnum):
    """How messages become text."""

    HH = "hh"
    PLAIN = "plain"
    CHATML = "chatml"
    TOKENIZER = "tokenizer"


class Form(StrEnum):
    """One text, or prompt and response as a pair."""

    SINGLE = "single"
    PAIR = "pair"


class Cut(StrEnum):
    """Which end of a text is left out where it is too long."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, slots=True)
class Axis:
    """One thing that is rewarded.

    output: column of the network's output. sign: 1, or -1 where the network says how bad a
    response is. mean, spread (standard deviation, > 0): of sign * output on the references.
    """

    name: str
    output: int
    sign: int
    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class Template:
    """How a conversation becomes token ids; see `stars_local.reward.templates`.

    cls_id, sep_id: the special tokens before and after; a pair needs both. response_end: what
    follows the response, special tokens in it meant. chat_template_file: the Jinja template of
    the style `tokenizer`; bos, eos: the texts that it may write.
    """

    style: Style
    form: Form
    cls_id: int | None
    sep_id: int | None
    response_end: str
    chat_template_file: str | None
    bos: str
    eos: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured pair accuracy, whole and by tokens of the response: [share, low, high]."""

    axis: str
    data: str
    pairs: int
    accuracy: float
    ci95: tuple[float, ...]
    at_tokens: dict[str, float]


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of `reward.json`.

    sha256, tokenizer_sha256: hex, of the files. data_files: more files of a large ONNX model,
    with their sha256. axes: the first is the one that is steered where none is named.
    max_tokens: longest text; max_prompt_tokens: the prompt's share of it in a pair. reference:
    what mean and spread were measured on. batch_invariant: whether the export proved that a
    score is the same alone, batched and padded; otherwise texts are scored one by one.
    past: whether the network takes past keys and values.
    """

    schema: int
    name: str
    revision: str
    kind: Kind
    precision: str
    model_file: str
    sha256: str
    data_files: dict[str, str]
    tokenizer_file: str
    tokenizer_sha256: str
    axes: tuple[Axis, ...]
    template: Template
    max_tokens: int
    max_prompt_tokens: int | None
    cut: Cut
    pad_id: int
    batch_invariant: bool
    golden_file: str
    reference: str
    licence: str
    training_card: str | None
    accuracy: tuple[Measured, ...]
    past: bool = False

    @property
    def files(self) -> dict[str, str | None]:
        """The files that go with this one, by name, with their SHA-256 where it is held here."""
        others = (self.golden_file, self.training_card, self.template.chat_template_file)
        return {
            **{name: None for name in others if name is not None},
            **self.data_files,
            self.model_file: self.sha256,
            self.tokenizer_file: self.tokenizer_sha256,
        }

    @property
    def identity(self) -> str:
        """A SHA-256, in hex, of everything that a score depends on and of nothing else.

        Two folders with the same identity score alike; figures and descriptions may differ.
        """
        scoring = (
            "kind", "sha256", "data_files", "tokenizer_sha256", "axes", "template", "max_tokens",
            "max_prompt_tokens", "cut", "pad_id",
        )  # fmt: skip
        values = to_json(self)
        text = json.dumps({name: values[name] for name in scoring}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def axis(self, name: str) -> Axis:
        """The axis of that name; RewardError lists those there are."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        names = [axis.name for axis in self.axes]
        raise RewardError(
            f"the reward model {self.name} has no axis {name!r}{nearest(name, names)}: "
            f"it has {', '.join(names)}"
        )


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The JSON object that `from_json` reads."""
    return dataclasses.asdict(manifest)


def read_manifest(folder: Path) -> Manifest:
    """Read `reward.json` from a folder; RewardError names the file and the field."""
    path = folder / MANIFEST_NAME
    try:
        raw = parse_json(path.read_text(encoding="utf-8"), unique=True)
    except FileNotFoundError:
        raise RewardError(
            f"{folder}: no {MANIFEST_NAME} in it; 'stars-local reward export' makes such folders"
        ) from None
    except (OSError, ValueError) as error:
        raise RewardError(f"cannot read {path}: {error}") from error
    return from_json(raw, str(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `reward.json`, whole or not at all, after checking it as a reader would."""
    text = json.dumps(to_json(manifest), indent=1, ensure_ascii=False) + "\n"
    from_json(json.loads(text), str(folder / MANIFEST_NAME))
    write_atomically(folder / MANIFEST_NAME, text.encode())


def from_json(raw: object, where: str) -> Manifest:
    """Check a JSON object and make it a manifest; `where` names it in errors."""
    if isinstance(raw, dict) and raw.get("schema", SCHEMA) != SCHEMA:
        raise RewardError(
            f"{where}: schema is {ascii(raw['schema'])[:40]}, this version reads {SCHEMA}"
        )
    manifest = typing.cast(Manifest, read_object(Manifest, raw, where, "", RewardError))
    _check(manifest, where)
    return manifest


def _check(manifest: Manifest, where: str) -> None:
    def need(right: bool, field: str, wanted: str) -> None:
        if not right:
            raise RewardError(f"{where}: {field} must be {wanted}")

    need(bool(manifest.name), "name", "a text that is not empty")
    known = ", ".join(PRECISIONS)
    need(manifest.precision in PRECISIONS, "precision", f"one of {known}")
    files = {"model_file": manifest.model_file, "tokenizer_file": manifest.tokenizer_file}
    files["golden_file"] = manifest.golden_file
    if manifest.training_card is not None:
        files["training_card"] = manifest.training_card
    if manifest.template.chat_template_file is not None:
        files["template.chat_template_file"] = manifest.template.chat_template_file
    files |= {f"data_files.{name}": name for name in manifest.data_files}
    for field, name in files.items():
        plain = _FILE_NAME.fullmatch(name) is not None
        need(plain, field, f"the plain name of a file in the same folder, found {name[:60]!r}")
    onnx = manifest.model_file.endswith(".onnx")  # ONNX Runtime reads .ort another way
    need(onnx, "model_file", f"the name of an .onnx file, found {manifest.model_file[:60]!r}")
    digests = {"sha256": manifest.sha256, "tokenizer_sha256": manifest.tokenizer_sha256}
    for field, digest in (digests | manifest.data_files).items():
        need(_SHA256.fullmatch(digest) is not None, field, "64 hexadecimal digits in lower case")
    need(bool(manifest.axes), "axes", "a list of at least one axis")
    names = [axis.name for axis in manifest.axes]
    need(len(set(names)) == len(names), "axes", f"of different names, found {', '.join(names)}")
    for i, axis in enumerate(manifest.axes):
        at = f"axes[{i}]."
        named = _AXIS_NAME.fullmatch(axis.name) is not None
        need(
            named, at + "name", f"a letter, then letters, digits, _ or -, found {axis.name[:40]!r}"
        )
        need(_is_id(axis.output), at + "output", f"from 0 to 2^31 - 1, found {_cut(axis.output)}")
        need(axis.sign in {1, -1}, at + "sign", f"1 or -1, found {_cut(axis.sign)}")
        need(axis.spread > 0, at + "spread", f"above 0, found {axis.spread}")
    for i, row in enumerate(manifest.accuracy):
        need(row.axis in names, f"accuracy[{i}].axis", f"one of {', '.join(names)}")
        need(_is_id(row.pairs), f"accuracy[{i}].pairs", f"from 0, found {_cut(row.pairs)}")
        shares = (row.accuracy, *row.ci95, *row.at_tokens.values())
        need(all(0 <= share <= 1 for share in shares), f"accuracy[{i}]", "shares from 0 to 1")
    found = _cut(manifest.max_tokens)
    fits = 3 < manifest.max_tokens <= MAX_TOKENS
    need(fits, "max_tokens", f"above 3 and at most {MAX_TOKENS}, found {found}")
    template, limit = manifest.template, manifest.max_prompt_tokens
    ids = {"template.cls_id": template.cls_id, "template.sep_id": template.sep_id}
    for field, value in (ids | {"pad_id": manifest.pad_id}).items():
        right = value is None or _is_id(value)
        need(right, field, f"a token id from 0 to 2^31 - 1, found {_cut(value)}")
    if template.form is Form.PAIR:
        both = template.cls_id is not None and template.sep_id is not None
        need(both, "template.cls_id and template.sep_id", "token ids where the form is 'pair'")
        fits = limit is not None and 0 <= limit < manifest.max_tokens - 3
        need(fits, "max_prompt_tokens", "in [0, max_tokens - 3) where the form is 'pair'")
        need(not template.response_end, "template.response_end", "empty where the form is 'pair'")
    else:
        need(limit is None, "max_prompt_tokens", "null where the form is 'single'")
    needs_file = template.style is Style.TOKENIZER
    need(
        needs_file == (template.chat_template_file is not None),
        "template.chat_template_file",
        "a file where the style is 'tokenizer', null elsewhere",
    )


def _is_id(number: int) -> bool:
    return 0 <= number < _END_OF_IDS


def _cut(number: int | None) -> str:
    """A number in an error; a JSON text may hold one of 4,300 digits."""
    return str(number)[:40]
