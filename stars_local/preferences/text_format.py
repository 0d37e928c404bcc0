"""How a prompt and a response become the token ids that a reward model reads.

One definition, used by training and by decoding alike: a reward means nothing unless both
build the same ids. Pure standard library; the tokenizer is passed in as its ids.

The template ``hh-pair`` is

    [CLS] prompt [SEP] response [SEP]

- *prompt* is `render_prompt(messages)`: each message on its own, ``Human: ...`` for the
  role ``user``, ``Assistant: ...`` for ``assistant``, ``System: ...`` for ``system``, and
  the bare content for ``text`` (raw text that the response continues), joined by a blank
  line. No messages give an empty prompt.
- *response* is the text so far, stripped of surrounding white space; it may be empty.
- Both are tokenised without special tokens, and with the text of special tokens (``[SEP]``)
  treated as ordinary text, so no text can forge a border.
- **Cutting is on the left of both**: the prompt keeps its last `max_prompt_tokens` tokens
  (the question asked last), the response the last tokens that then fit into `max_tokens`.
  A judge of partial responses must see the newest segment; a right cut would give every
  later segment the same reward.
"""

from __future__ import annotations

from collections.abc import Sequence

TEMPLATE_HH_PAIR = "hh-pair"

Message = tuple[str, str]
"""A role (``user``, ``assistant``, ``system`` or ``text``) and its content."""

_LABELS = {"user": "Human: ", "assistant": "Assistant: ", "system": "System: ", "text": ""}
_N_SPECIAL = 3


def render_prompt(messages: Sequence[Message]) -> str:
    """The prompt's text in HH style; an unknown role is a ValueError that names it."""
    parts = []
    for role, content in messages:
        if role not in _LABELS:
            raise ValueError(f"unknown role {role!r}: expected one of {', '.join(_LABELS)}")
        parts.append(_LABELS[role] + content.strip())
    return "\n\n".join(parts)


def render_response(response: str) -> str:
    """The response's text as it is tokenised: without surrounding white space."""
    return response.strip()


def assemble_pair(
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    *,
    max_tokens: int,
    max_prompt_tokens: int,
    cls_id: int,
    sep_id: int,
) -> list[int]:
    """``[CLS] prompt [SEP] response [SEP]``, both cut on the left; at most `max_tokens` ids.

    Raises ValueError unless ``0 <= max_prompt_tokens < max_tokens - 3``: at least one
    token of the response must fit.
    """
    if not 0 <= max_prompt_tokens < max_tokens - _N_SPECIAL:
        raise ValueError(
            f"max_prompt_tokens is {max_prompt_tokens} and max_tokens {max_tokens}: "
            f"need 0 <= max_prompt_tokens < max_tokens - {_N_SPECIAL}"
        )
    prompt = _last(prompt_ids, max_prompt_tokens)
    response = _last(response_ids, max_tokens - _N_SPECIAL - len(prompt))
    return [cls_id, *prompt, sep_id, *response, sep_id]


def _last(ids: Sequence[int], n: int) -> Sequence[int]:
    return ids[max(0, len(ids) - n) :]
