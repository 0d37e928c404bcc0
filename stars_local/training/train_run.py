"""One training run from specifications to checkpoint and card: the work behind the command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stars_local.core.errors import RewardError, UsageError
from stars_local.core.files import write_atomically
from stars_local.preferences.sources import SourceSpec, load_sources
from stars_local.training.batches import (
    BatchPlan,
    EncodedPair,
    Encoder,
    encode_pairs,
    split_by_prompt,
)
from stars_local.training.card import build_card, write_card
from stars_local.training.loop import StepReport, Trainer
from stars_local.training.network import (
    EncoderConfig,
    RewardNetwork,
    initialise_head,
    load_encoder,
)
from stars_local.training.settings import TrainingSettings


def train_reward(
    specs: Sequence[SourceSpec],
    test_files: Sequence[Path],
    encoder: Path,
    out: Path,
    settings: TrainingSettings,
    *,
    held_out_share: float,
    device: str,
    resume: bool,
    save_every: int = 200,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> dict[str, Any]:
    """Train and write `out` (checkpoint, tokenizer, card); returns the card.

    `encoder` is a folder with a BERT encoder's config.json, model.safetensors and
    tokenizer.json. Without `resume`, `out` must not hold a checkpoint already.
    """
    import torch

    if (out / "checkpoint.json").exists() and not resume:
        raise UsageError(f"{out} holds a checkpoint: add --resume, or choose another --out")
    axes = tuple(sorted({spec.axis for spec in specs}))
    settings = _with_all_axes(settings, axes)
    tokenizer_path = encoder / "tokenizer.json"
    text_encoder = _tokenizer(tokenizer_path)
    data = load_sources(specs, test_files, settings.seed)
    train, held_out = split_by_prompt(data.pairs, held_out_share, settings.seed)
    if not train or not held_out:
        raise UsageError(
            f"{len(train)} pairs to train and {len(held_out)} held out of {len(data.pairs)}: "
            f"need some of both, change --held-out {held_out_share}"
        )
    limits = {
        spec.name: spec.max_response_tokens
        for spec in specs
        if spec.max_response_tokens is not None
    }
    rows: list[EncodedPair] = encode_pairs(text_encoder, train, limits)
    held_out_rows = encode_pairs(text_encoder, held_out, limits)
    sep_id = text_encoder.special_id("[SEP]")
    plan = BatchPlan(
        rows,
        axis_weights=settings.axis_weights,
        batch_size=settings.batch_size,
        limits=settings.limits,
        prefixes=settings.prefixes,
        cls_id=text_encoder.special_id("[CLS]"),
        sep_id=sep_id,
        seed=settings.seed,
    )
    network = RewardNetwork(EncoderConfig.read(encoder / "config.json"), axes, sep_id)
    load_encoder(network, encoder)
    initialise_head(network, settings.seed)
    torch_device = torch.device(device)
    network.to(torch_device)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "tokenizer.json", tokenizer_path.read_bytes())

    def card(curve: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return build_card(
            specs=specs,
            data=data,
            train=train,
            held_out=held_out,
            held_out_share=held_out_share,
            encoder=encoder,
            settings=settings.to_json(),
            curve=curve,
            versions={"torch": torch.__version__},
        )

    trainer = Trainer(
        network,
        plan,
        held_out_rows,
        settings,
        out,
        device=torch_device,
        save_every=save_every,
        on_step=on_step,
        on_epoch=lambda curve: write_card(out, card(curve)),
    )
    if resume:
        trainer.resume()
    finished = card(trainer.run())
    write_card(out, finished)
    return finished


def _with_all_axes(settings: TrainingSettings, axes: Sequence[str]) -> TrainingSettings:
    unknown = sorted(set(settings.axis_weights) - set(axes))
    if unknown:
        raise UsageError(f"--axis-weights names {unknown[0]!r}, but no --data has this axis")
    return replace(settings, axis_weights={a: settings.axis_weights.get(a, 1.0) for a in axes})


def _tokenizer(path: Path) -> Encoder:
    from tokenizers import Tokenizer

    # The library raises plain Exception for whatever is wrong with a file.
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise RewardError(f"cannot read the encoder's tokenizer {path}: {error}") from error
    return Encoder(tokenizer)
