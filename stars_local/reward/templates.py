"""From a conversation and a response to the token ids that a reward network reads.

| form | ids |
|---|---|
| pair | ``[CLS] prompt [SEP] response [SEP]``, by `text_format.assemble_pair` |
| single | ``[CLS]? prompt response response_end [SEP]?`` |

| style | prompt | response in a single text |
|---|---|---|
| hh | ``Human: ...``, blank line, ``Assistant:`` (none in a pair) | a space, the response |
| plain | the contents, joined by blank lines | blank line, the response |
| chatml | ``<|im_start|>role``, newline, content, ``<|im_end|>``, newline, ... | the response |
| tokenizer | the model's own Jinja template, up to where the answer begins | the response |

Prompt, response and end are tokenised apart, so a prompt is tokenised once for all responses to
it. Only what a template writes can be a special token; the texts of people and models are
tokenised as plain text, whatever they look like.

**A text over the limit is cut, never refused.** `left` keeps the newest tokens of the response,
and of the prompt what fits before them (in a pair its last `max_prompt_tokens`): the reward then
judges the end of a long answer. `right` keeps the first tokens: every longer response gets the
reward of its beginning. The special tokens and the end stay.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stars_local.core.errors import RewardError, StarsError
from stars_local.core.records import Prompt
from stars_local.preferences.text_format import assemble_pair, render_prompt, render_response
from stars_local.reward.manifest import Cut, Form, Kind, Manifest, Style
from stars_local.reward.text_growth import check_growth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

Render = Callable[[Prompt, str, str, str], Sequence[tuple[str, bool]]]
"""(prompt, Jinja template, bos, eos) to pieces of text up to where the answer begins, each with
whether it is the template's own, in which special tokens are meant. Rendering runs code of the
model's maker, so it is left to what can do that safely. Raises StarsError."""

_MAX_CACHED_PROMPTS = 512
_CHATML_END = "<|im_end|>\n"


class TextEncoder:
    """Builds token ids by a manifest's template; keeps the ids of the last prompts."""

    def __init__(self, folder: Path, manifest: Manifest, render: Render | None = None) -> None:
        self._manifest = manifest
        self._lock = threading.Lock()
        self._render_template = render
        self._template = manifest.template
        self._tokenizer = load_tokenizer(folder / manifest.tokenizer_file)
        self._jinja = None
        if self._template.chat_template_file is not None:
            path = folder / self._template.chat_template_file
            try:
                self._jinja = path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise RewardError(f"cannot read the chat template {path}: {error}") from error
        self._end = self._ids(self._template.response_end, special=True)
        self._cached: OrderedDict[tuple[object, ...], tuple[int, ...]] = OrderedDict()

    @property
    def max_id(self) -> int:
        """The largest token id that may come out."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        return max(vocabulary.values(), default=0)

    @property
    def n_tail(self) -> int:
        """How many ids end every text: what the template writes after a response."""
        return len(self._end) + (self._template.sep_id is not None)

    def encode(
        self, prompt: Prompt, response: str, *, max_response_tokens: int | None = None
    ) -> list[int]:
        """The ids of a response so far, at most `max_tokens`.

        max_response_tokens: keep only so many first tokens of the response, as if no more had
        been written. Raises RewardError for a role or a text that the template cannot take.
        """
        # Whether special tokens are meant is a switch of the tokenizer that all threads share
        with self._lock:
            prompt_ids = self._prompt_ids(prompt)
            answer = self._response_ids(response)[:max_response_tokens]
        limit, template = self._manifest.max_tokens, self._template
        right = self._manifest.cut is Cut.RIGHT
        if template.form is Form.PAIR:
            cls_id, sep_id = template.cls_id, template.sep_id
            max_prompt = self._manifest.max_prompt_tokens
            if cls_id is None or sep_id is None or max_prompt is None:
                raise RewardError(f"{self._manifest.name}: a pair needs cls_id and sep_id")
            if right:
                answer = answer[: limit - 3 - min(len(prompt_ids), max_prompt)]
            return assemble_pair(
                prompt_ids,
                answer,
                max_tokens=limit,
                max_prompt_tokens=max_prompt,
                cls_id=cls_id,
                sep_id=sep_id,
            )
        head = [] if template.cls_id is None else [template.cls_id]
        tail = [*self._end, *([] if template.sep_id is None else [template.sep_id])]
        body = [*prompt_ids, *answer]
        room = limit - len(head) - len(tail)
        if room < 1:
            raise RewardError(
                f"{self._manifest.name}: response_end leaves no room in max_tokens {limit}"
            )
        body = body[:room] if right else body[max(0, len(body) - room) :]
        return [*head, *body, *tail] or [self._manifest.pad_id]

    def _response_ids(self, response: str) -> list[int]:
        text = render_response(response)
        if self._template.form is Form.SINGLE and text:
            if self._template.style is Style.HH:
                text = " " + text
            elif self._template.style is Style.PLAIN:
                text = "\n\n" + text
        return self._ids(text)

    def _prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        key = (prompt.text, tuple((m.role, m.content) for m in prompt.messages))
        found = self._cached.get(key)
        if found is None:
            found = tuple(self._render(prompt))
            self._cached[key] = found
            if len(self._cached) > _MAX_CACHED_PROMPTS:
                self._cached.popitem(last=False)
        else:
            self._cached.move_to_end(key)
        return found

    def _render(self, prompt: Prompt) -> list[int]:
        style, pair = self._template.style, self._template.form is Form.PAIR
        if prompt.text is not None:
            messages = [("text", prompt.text)]
        else:
            messages = [(message.role, message.content) for message in prompt.messages]
        if style is Style.PLAIN or (prompt.text is not None and style is not Style.HH):
            return self._ids("\n\n".join(content.strip() for _, content in messages))
        if style is Style.HH:
            try:
                text = render_prompt(messages)
            except ValueError as error:
                raise RewardError(f"prompt {prompt.id!r}: {error}") from error
            goes_on = pair or prompt.text is not None
            return self._ids(text if goes_on else text + "\n\nAssistant:")
        if style is Style.CHATML:
            ids = []
            for role, content in messages:
                ids += self._ids("<|im_start|>", special=True) + self._ids(f"{role}\n{content}")
                ids += self._ids(_CHATML_END, special=True)
            return [*ids, *self._ids("<|im_start|>assistant\n", special=True)]
        return self._render_own(prompt)

    def _render_own(self, prompt: Prompt) -> list[int]:
        if self._jinja is None or self._render_template is None:
            raise RewardError(
                f"the reward model {self._manifest.name} has a chat template of its own, and was "
                "opened without anything to render it: pass render="
            )
        bare = tuple(replace(message, token_ids=None) for message in prompt.messages)
        template = self._template
        try:
            pieces = self._render_template(
                Prompt(prompt.id, bare), self._jinja, template.bos, template.eos
            )
        except StarsError as error:
            raise RewardError(f"the reward model {self._manifest.name}: {error}") from error
        return [i for text, special in pieces for i in self._ids(text, special=special)]

    def _ids(self, text: str, *, special: bool = False) -> list[int]:
        self._tokenizer.encode_special_tokens = not special
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # it raises plain Exception, and its panics are not even
            raise RewardError(
                f"the tokenizer of {self._manifest.name} refuses a text of {len(text)} "
                f"characters: {str(error)[:300]}"
            ) from error


def load_tokenizer(path: Path) -> Tokenizer:
    """A `tokenizer.json`, neither padding nor cutting; RewardError where it is none, or could
    make texts so long that they fill the memory."""
    from tokenizers import Tokenizer

    check_growth(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # it raises plain Exception, and its panics are not even
        raise RewardError(f"cannot read the tokenizer {path}: {str(error)[:300]}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def default_response_end(kind: Kind, style: Style, eos: str) -> str:
    """What follows a response by default: the end of the turn, or of the step."""
    if kind is Kind.PROCESS:
        return "\n"
    if style is Style.CHATML:
        return _CHATML_END
    return eos if style is Style.TOKENIZER else ""


def pad_right(
    rows: Sequence[Sequence[int]], pad_id: int, extra: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(input_ids, attention_mask): int64 arrays (n, longest + extra), padded on the right."""
    import numpy as np

    longest = max(len(row) for row in rows) + extra
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask
