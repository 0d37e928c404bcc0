"""What a folder of a network says of its texts: tokenizer, special tokens, limits, template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stars_local.core.errors import DataError, RewardError

_MAX_DEFAULT_TOKENS = 2048  # decoders state contexts that no reward model was trained on


def token_limit(config: Any, settings: Mapping[str, Any]) -> int:
    """The longest text that model and tokenizer both say they take, in tokens."""
    limits = [_MAX_DEFAULT_TOKENS]
    for value in (
        getattr(config, "max_position_embeddings", None),
        settings.get("model_max_length"),
    ):
        if isinstance(value, int) and value > 0:
            limits.append(value)
    return min(limits)


def chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The Jinja chat template of a Hugging Face folder, None where it has none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):  # several by name
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def tokenizer_bytes(folder: Path) -> bytes:
    """The bytes of `tokenizer.json`; RewardError where it cannot be read."""
    path = folder / "tokenizer.json"
    try:
        return path.read_bytes()
    except OSError as error:
        raise RewardError(
            f"cannot read {path}: {error}; a slow tokenizer must be saved as tokenizer.json first"
        ) from error


def named_id(tokenizer: bytes, settings: Mapping[str, Any], name: str, default: str) -> int | None:
    """The id of a special token that `tokenizer_config.json` names, or of `default`."""
    return token_id(tokenizer, token_text(settings.get(name)) or default)


def token_id(tokenizer: bytes, token: str) -> int | None:
    """The id of a token, None where the tokenizer has none such."""
    from tokenizers import Tokenizer

    try:
        found: int | None = Tokenizer.from_buffer(tokenizer).token_to_id(token)
    except Exception as error:  # the library raises plain Exception
        raise RewardError(f"tokenizer.json cannot be read: {error}") from error
    return found


def token_text(raw: object) -> str:
    """A token in `tokenizer_config.json`: its text, or an object that holds it."""
    if isinstance(raw, dict):
        raw = raw.get("content")
    return raw if isinstance(raw, str) else ""


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A JSON object; empty where the file is optional and not there. DataError otherwise."""
    if optional and not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object")
    return found
