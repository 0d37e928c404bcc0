"""From a conversation to the pieces that a language model is given.

The chat template of the model file arranges the turns. Message texts never pass through it: each
is stood in for by a number that nobody can guess, and the rendered text is split at these. What
lies between is the template's own text (`Control`: its special tokens are parsed); in their
place come the messages (`Plain`: tokenised as text, whatever it looks like). So no typed text
can forge a turn, and a template has nothing secret to leak.

What a template can still see of a message, because templates ask for it: whether it is empty,
the white space around it, and in assistant messages the tags in `REASONING_TAGS`, since many
templates leave the reasoning of earlier turns out. White space that the template keeps and such
tags come back as part of its own text.

A base model has no template and gets

    {system message}

    User: {message}

    Assistant: {message}

with everything `Plain`; a line of a message that begins like a turn is quoted with "> ", and
`PLAIN_STOPS` end an answer that would go on with the person's turn.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from stars_local.core.errors import DataError, ModelError
from stars_local.core.records import Message, Prompt
from stars_local.llama.child import MIB, Child, ChildDied, ChildRefused

REASONING_TAGS = ("<think>", "</think>")
PLAIN_STOPS = ("\nUser:", "\nAssistant:", "\nSystem:")
MAX_TEMPLATE_CHARS = 256 << 10  # real ones have up to 20,000
RENDER_LIMIT_S = 5.0
_RENDER_BYTES = 256 * MIB

_N_NONCE_DIGITS = 24  # 80 bits on either side
_N_SLOT_DIGITS = 6
_N_TELLTALE_DIGITS = 8  # this much of a nonce in the template's text is no accident
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_TAGS = re.compile(f"({'|'.join(map(re.escape, REASONING_TAGS))})")
_LABEL = re.compile(r"\s*(user|assistant|system)\s*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Control:
    """Text of the template: special tokens in it are meant."""

    text: str


@dataclass(frozen=True, slots=True)
class Plain:
    """Text of a person or a model: nothing in it is a special token."""

    text: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An assistant message as the tokens it was sampled as, its end token included if it had
    one: where the template's text after it begins with that token, it is there only once."""

    token_ids: tuple[int, ...]


Piece = Control | Plain | Kept

_child = Child()


def warm_up() -> None:
    """Start the helper process that renders, without waiting for it."""
    _child.start()


def close() -> None:
    """End the helper process; a later `render` starts another."""
    _child.close()


def render(prompt: Prompt, template: str | None, *, bos: str, eos: str) -> list[Piece]:
    """The pieces of a prompt, in order, ending where the response begins; none is empty.

    template: the model file's Jinja chat template, None for a base model. bos, eos: the texts
    of these tokens, for templates that write them. The prompt's prefill comes last, as Plain.
    A template may leave out earlier turns, but neither a system message nor the last message
    of the user. Raises ModelError for a template that refuses, fails, hangs or misbehaves,
    DataError for a role or a text that cannot be.
    """
    if prompt.text is not None:
        pieces: list[Piece] = [Plain(_valid(prompt.text))]
    else:
        for message in prompt.messages:
            _valid(message.content)
            if not _ROLE.fullmatch(message.role):
                raise DataError(
                    f"a message has the role {message.role[:40]!r}: use letters, digits and _"
                )
        if template is None:
            pieces = _plain_format(prompt.messages)
        else:
            pieces = _from_template(prompt.messages, template, bos, eos)
    if prompt.prefill:
        pieces.append(Plain(_valid(prompt.prefill)))
    return _joined(pieces)


def conversation_stops(given: tuple[str, ...], template: str | None) -> tuple[str, ...]:
    """The stop strings of an answer: those given, and without a template `PLAIN_STOPS` too."""
    plain = PLAIN_STOPS if template is None else ()
    return (*given, *(stop for stop in plain if stop not in given))


def forges_turn(text: str, template: str | None) -> bool:
    """Whether an answer's tokens, taken as they are, could be read as more turns than one: where
    no template parts the turns, a line in it that begins as a turn does."""
    return template is None and _quoted(text) != text


def _valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"a text holds half a character (U+{ord(text[error.start]):04X} at {error.start}): "
            "write it as valid Unicode"
        ) from None
    return text


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, Kept):
            joined.append(piece)
        elif not piece.text:
            continue
        elif isinstance(last, Control) and isinstance(piece, Control):
            joined[-1] = Control(last.text + piece.text)
        elif isinstance(last, Plain) and isinstance(piece, Plain):
            joined[-1] = Plain(last.text + piece.text)
        else:
            joined.append(piece)
    return joined


def _plain_format(messages: Sequence[Message]) -> list[Piece]:
    pieces: list[Piece] = []
    for message in messages:
        text = _quoted(message.content)
        if message.role == "system":
            pieces.append(Plain(f"{text}\n\n"))
        elif message.token_ids is not None:
            pieces += [Plain("Assistant:"), Kept(message.token_ids), Plain("\n\n")]
        else:
            pieces.append(Plain(f"{message.role.capitalize()}: {text.lstrip()}\n\n"))
    return [*pieces, Plain("Assistant:")]


def _quoted(text: str) -> str:
    first, *others = text.splitlines(keepends=True) or [""]
    return first + "".join(f"> {line}" if _LABEL.match(line) else line for line in others)


class _StandIns:
    """The numbers that stand in for message texts in one rendering.

    Each is nonce, slot number, nonce: digits only, because they survive changes of case and
    every kind of escaping. All have the same length.
    """

    def __init__(self) -> None:
        self.nonce = "".join(secrets.choice("0123456789") for _ in range(_N_NONCE_DIGITS))
        self.pieces: dict[str, Piece] = {}

    def put(self, piece: Piece) -> str:
        """A stand-in for a piece."""
        name = f"{self.nonce}{len(self.pieces):0{_N_SLOT_DIGITS}d}{self.nonce}"
        self.pieces[name] = piece
        return name

    def shown(self, message: Message) -> str:
        """What the template sees in place of the message's content."""
        if message.token_ids is not None:
            return self._shown_kept(message.content, Kept(message.token_ids))
        if message.role != "assistant":
            return self._in_space(message.content)
        return self._around_tags(_TAGS.split(message.content))

    def _shown_kept(self, content: str, kept: Kept) -> str:
        """Space at the ends is hidden: a template cannot trim tokens.

        With reasoning in it, the parts are stood in for one by one and the whole of them is
        the tokens: if the template takes a part out, the rest comes back as text.
        """
        head, *middle, tail = _TAGS.split(content) if _TAGS.search(content) else ("", "")
        if not (head + "".join(middle[1::2]) + tail).strip():
            return self.put(kept)
        head_core, tail_core = head.rstrip(), tail.lstrip()
        shown = self._text(head_core) + head[len(head_core) :]
        shown += self._around_tags(["", *middle, ""])
        shown += tail[: len(tail) - len(tail_core)] + self._text(tail_core)
        self.pieces[shown] = kept
        return shown

    def _around_tags(self, parts: Sequence[str]) -> str:
        return "".join(part if i % 2 == 1 else self._in_space(part) for i, part in enumerate(parts))

    def _text(self, text: str) -> str:
        return self.put(Plain(text)) if text else ""

    def _in_space(self, part: str) -> str:
        core = part.strip()
        start = part.index(core)
        return part[:start] + self._text(core) + part[start + len(core) :]

    def split(self, rendered: str) -> list[Piece]:
        """The rendered text with the messages in their places; longest stand-ins first."""
        found: list[Piece] = [Control(rendered)]
        # no pattern: `re` would keep hundreds, each as long as a conversation, and none fits twice
        for name in sorted(self.pieces, key=len, reverse=True):
            parts: list[Piece] = []
            for piece in found:
                if not isinstance(piece, Control):
                    parts.append(piece)
                    continue
                first, *rest = piece.text.split(name)
                parts.append(Control(first))
                for text in rest:
                    parts += (self.pieces[name], Control(text))
            found = parts
        return found

    def is_cut(self, text: str) -> bool:
        """Whether a part of a stand-in is left in a text."""
        n = _N_TELLTALE_DIGITS
        return any(self.nonce[i : i + n] in text for i in range(len(self.nonce) - n + 1))


def _from_template(messages: Sequence[Message], template: str, bos: str, eos: str) -> list[Piece]:
    if len(template) > MAX_TEMPLATE_CHARS:
        raise ModelError(
            f"the model's chat template has {len(template)} characters, the limit is "
            f"{MAX_TEMPLATE_CHARS}: use another model file"
        )
    stand_ins = _StandIns()
    shown = [stand_ins.shown(message) for message in messages]
    rendered = _run(
        template,
        [{"role": m.role, "content": text} for m, text in zip(messages, shown, strict=True)],
        bos,
        eos,
    )
    _check_complete(messages, shown, rendered)
    pieces = stand_ins.split(rendered)
    if any(isinstance(piece, Control) and stand_ins.is_cut(piece.text) for piece in pieces):
        raise ModelError(
            "the model's chat template cuts message texts apart: use another model file"
        )
    return pieces


def _run(template: str, messages: list[dict[str, str]], bos: str, eos: str) -> str:
    request = {"template": template, "messages": messages, "bos": bos, "eos": eos}
    try:
        rendered = _child.ask("render", request, limit_s=RENDER_LIMIT_S, n_bytes=_RENDER_BYTES)
    except ChildDied as error:
        raise ModelError(f"the model's chat template {error}: use another model file") from None
    except ChildRefused as error:
        reason = " ".join(str(error).split())[:300]
        if error.kind != "raised":
            raise ModelError(
                f"the model's chat template fails ({reason}): use another model file"
            ) from None
        remedy = "leave the system message out, or use another model file"
        if all(message["role"] != "system" for message in messages):
            remedy = "change the order of the turns, or use another model file"
        roles = ", ".join(message["role"] for message in messages[:8])
        raise ModelError(
            f"the model's chat template refuses these turns ({roles}): {reason}: {remedy}"
        ) from None
    return str(rendered)


def _check_complete(messages: Sequence[Message], shown: Sequence[str], rendered: str) -> None:
    needed = [i for i, message in enumerate(messages) if message.role == "system"]
    needed += [i for i, message in enumerate(messages) if message.role == "user"][-1:]
    for i in needed:
        if shown[i].strip() not in rendered:
            raise ModelError(
                f"the model's chat template leaves the {messages[i].role} message out: "
                "remove that message, or use another model file"
            )
