"""Lines of JSON with a prompt and a response, as `reward score` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stars_local.core.errors import DataError
from stars_local.core.records import Message, Prompt

_ROLES = ("system", "user", "assistant")


def read_item(values: Mapping[str, Any], where: str) -> tuple[Prompt, str]:
    """The prompt (a text, the user's; or a list of messages) and the response of an object.

    DataError, beginning with `where`, names the field that is wrong.
    """
    for name in ("prompt", "response"):
        if name not in values:
            raise DataError(f"{where}: no field {name!r}")
    response = values["response"]
    if not isinstance(response, str):
        raise DataError(f"{where}: 'response' must be text, found {type(response).__name__}")
    raw = values["prompt"]
    if isinstance(raw, str):
        return Prompt(where, (Message("user", raw),)), response
    if not isinstance(raw, list) or not raw:
        raise DataError(f"{where}: 'prompt' must be text or a list of messages")
    messages = []
    for item in raw:
        content = item.get("content") if isinstance(item, dict) else None
        if not isinstance(content, str) or item.get("role") not in _ROLES:
            raise DataError(
                f"{where}: a message needs a role of {', '.join(_ROLES)} and a content of text"
            )
        messages.append(Message(item["role"], content))
    return Prompt(where, tuple(messages)), response
