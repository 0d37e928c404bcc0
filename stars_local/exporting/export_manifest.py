"""What an export says before anything is measured: file names, options, and a bare manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stars_local.core.errors import RewardError, UsageError
from stars_local.core.files import sha256_of, write_atomically
from stars_local.exporting.architectures import Source
from stars_local.reward.manifest import (
    MANIFEST_NAME,
    SCHEMA,
    Axis,
    Cut,
    Form,
    Kind,
    Manifest,
    Style,
    Template,
)
from stars_local.reward.templates import default_response_end

MODEL, TOKENIZER, GOLDEN, CARD = "model.onnx", "tokenizer.json", "golden.json", "card.json"
CHAT_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class ExportOptions:
    """What a person may say otherwise than the source folder; None keeps what it says.

    axes: see `Source.axes`. signs: -1 for the axes whose output says how bad a response is.
    past: True insists on a decoder that takes past keys and values, False on one that does not;
    None takes them where that agrees with torch.
    """

    name: str
    precision: str = "fp32"
    axes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] | None = None
    negated: frozenset[str] = frozenset()
    style: Style | None = None
    form: Form | None = None
    response_end: str | None = None
    max_tokens: int | None = None
    cut: Cut = Cut.LEFT
    licence: str | None = None
    past: bool | None = None


def bare_manifest(
    source: Source, options: ExportOptions, names: Sequence[str], folder: Path
) -> Manifest:
    """Everything but what is measured: mean 0, spread 1, no golden scores, no figures."""
    style = source.style if options.style is None else options.style
    form = source.form if options.form is None else options.form
    unknown = sorted(options.negated - set(names))
    if unknown:
        raise UsageError(f"--negate {unknown[0]!r}: the axes are {', '.join(names)}")
    max_tokens = source.max_tokens
    if options.max_tokens is not None:
        max_tokens = min(options.max_tokens, source.max_tokens)
    prompt_limit = None
    if form is Form.PAIR:
        given = source.max_prompt_tokens
        half = max_tokens // 2
        prompt_limit = half if given is None or given >= max_tokens - 3 else given
    write_atomically(folder / TOKENIZER, source.tokenizer)
    jinja = source.chat_template if style is Style.TOKENIZER else None
    if style is Style.TOKENIZER and jinja is None:
        raise RewardError("the source has no chat template: use --template chatml, hh or plain")
    if jinja is not None:
        write_atomically(folder / CHAT_TEMPLATE, jinja.encode())
    end = options.response_end
    if end is None:
        end = "" if form is Form.PAIR else default_response_end(source.kind, style, source.eos)
    licence = options.licence if options.licence is not None else source.licence
    return Manifest(
        schema=SCHEMA,
        name=options.name,
        revision="0",
        kind=source.kind,
        precision="fp32",
        model_file=MODEL,
        sha256=sha256_of(folder / MODEL),
        data_files=data_files(folder),
        tokenizer_file=TOKENIZER,
        tokenizer_sha256=sha256_of(folder / TOKENIZER),
        axes=tuple(
            Axis(name, place, -1 if name in options.negated else 1, 0.0, 1.0)
            for place, name in enumerate(names)
        ),
        template=Template(
            style,
            form,
            source.cls_id,
            source.sep_id if source.kind is Kind.ENCODER else None,
            end,
            None if jinja is None else CHAT_TEMPLATE,
            source.bos,
            source.eos,
        ),
        max_tokens=max_tokens,
        max_prompt_tokens=prompt_limit,
        cut=options.cut,
        pad_id=source.pad_id,
        batch_invariant=False,
        golden_file=GOLDEN,
        reference="none",
        licence="not stated" if licence is None else licence,
        training_card=None,
        accuracy=(),
    )


def data_files(folder: Path) -> dict[str, str]:
    """The files beside the known ones, by name: weights too large for the ONNX file itself."""
    known = {MODEL, TOKENIZER, CHAT_TEMPLATE, GOLDEN, CARD, MANIFEST_NAME}
    extra = sorted(path for path in folder.iterdir() if path.name not in known)
    return {path.name: sha256_of(path) for path in extra}
