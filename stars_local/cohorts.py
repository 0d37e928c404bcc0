"""The context that a cohort is drawn in: one cache for all its prompts, or a stream for each.

In a unified cache every token attends over everybody's cells, so a step slows with the square of
the prompts; in streams it attends over its own, and a branch copies the whole of its trunk's.
Streams are taken where lengths are known and a prompt has one attempt at a time, which is drawn
in its own stream, or where many prompts are drawn a few times each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from stars_local import compose
from stars_local.calibration import quick
from stars_local.core.errors import UsageError
from stars_local.core.records import Prompt
from stars_local.llama.limits import need_sequences
from stars_local.settings import Settings

PROMPT_TOKENS = 384  # of context that a prompt is given, where nobody counted
_ROUND = 64  # the length of a stream is a multiple of it
_SPARE = 8  # a text cut anew has rarely more tokens than were drawn, never an eighth more


@dataclass(frozen=True, slots=True)
class Layout:
    """n_ctx: tokens of all prompts together where unified, else of each. n_sequences: trunks and
    branches at once."""

    n_ctx: int
    n_sequences: int
    unified: bool


def layout_of(settings: Settings, cohort: int, longest: int | None) -> Layout:
    """The context of a cohort.

    longest: tokens of the longest prompt, where it was counted and streams will do. With `n_ctx`
    in the settings it is one cache of that size. Raises UsageError for more sequences than a
    context holds.
    """
    width = int(settings.width)
    streams = longest is not None and width == 1 and settings.n_ctx is None
    # a trunk, a kept loser and a round, each prompt; in a stream of its own a trunk alone
    n = cohort if streams else cohort * (2 + width)
    need_sequences(n, cohort, width, "--cohort or --width")
    if streams and longest is not None:
        # room for a quick calibration as well, should one be missing
        prompt = max(longest, quick.PROMPT_TOKENS)
        n_ctx = _stream(prompt, max(settings.max_new_tokens, quick.ANSWER_TOKENS))
        return Layout(n_ctx, max(n, 2 + quick.N_DRAWS), unified=False)
    if settings.n_ctx is not None:
        return Layout(settings.n_ctx, n, unified=True)
    return Layout(cohort * (PROMPT_TOKENS + settings.max_new_tokens * (1 + width)), n, unified=True)


def layout_of_draws(
    settings: Settings, n_slots: int, n_draws: int, max_new_tokens: int, longest: int | None
) -> Layout:
    """The context of prompts in lockstep that are drawn `n_draws` times a segment, each draw in a
    stream. Copying a trunk costs less than every token's attention over all prompts. See
    `layout_of`."""
    n = n_slots * (2 + n_draws)
    need_sequences(n, n_slots, n_draws, "--slots or --draws")
    if settings.n_ctx is not None:
        return Layout(settings.n_ctx, n, unified=True)
    if longest is None:
        each = PROMPT_TOKENS + max_new_tokens * (1 + n_draws)
        return Layout(n_slots * each, n, unified=True)
    return Layout(_stream(longest, max_new_tokens), n, unified=False)


def _stream(longest: int, max_new_tokens: int) -> int:
    return -(-(longest + max_new_tokens + 1) // _ROUND) * _ROUND


def longest_prompts(
    settings: Settings, turns: Sequence[Sequence[Prompt]]
) -> tuple[int | None, ...]:
    """Tokens of the longest prompt of each turn, by the model's own template; None where the
    model's state cannot be cut, so that streams would copy.

    turns: the prompts of each, which leave a blank for the answers before them; each answer is
    counted with its most tokens and some more, since it is cut into tokens anew. Raises UsageError
    where a prompt and its answer do not fit into the context that the model was trained for.
    """
    small = dataclasses.replace(settings, n_ctx=_ROUND)
    model = compose.open_language_model(small, n_sequences=2, unified=False)
    answer, most = settings.max_new_tokens, model.n_ctx_train
    try:
        found = []
        for n_answers, prompts in enumerate(turns):
            longest, name = max((len(model.encode(prompt)), prompt.id) for prompt in prompts)
            found.append(n := longest + n_answers * (answer + answer // _SPARE))
            if n + answer > most:
                raise UsageError(
                    f"the prompt {name!r} has {n} tokens"
                    f"{' with the longest answer before it' * bool(n_answers)}, and {answer} new "
                    f"ones make more than the {most} that the model was trained for: leave it out, "
                    "lower --max-new-tokens, or give --n-ctx"
                )
        return tuple(n if model.lends else None for n in found)
    finally:
        model.unload()
